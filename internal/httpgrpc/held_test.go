package httpgrpc

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
)

// chanSender sends text to a channel, or fails.
type chanSender struct {
	sent chan string
	err  error
}

func (s *chanSender) Send(msg mem.BufferSlice) error {
	if s.err != nil {
		return s.err
	}
	s.sent <- string(msg.Materialize())
	return nil
}

func text(s string) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(s)} }

func TestHeld_LeavesBeforeWhatFollows(t *testing.T) {
	to := &chanSender{sent: make(chan string, 3)}
	h := hold(to, text("head"), false)
	for _, s := range []string{"data", "trailer"} {
		if err := h.Send(text(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.release(); err != nil {
		t.Fatal(err)
	}
	close(to.sent)
	var got []string
	for s := range to.sent {
		got = append(got, s)
	}
	if diff := cmp.Diff([]string{"head", "data", "trailer"}, got); diff != "" {
		t.Error(diff)
	}
}

// A body that does not come must not keep its head from the client.
func TestHeld_LeavesAlone(t *testing.T) {
	to := &chanSender{sent: make(chan string, 3)}
	h := hold(to, text("head"), false)
	select {
	case <-to.sent:
	case <-time.After(30 * time.Second):
		t.Error("the head was not sent")
	}
	if err := h.release(); err != nil {
		t.Error(err)
	}
	if n := len(to.sent); n != 0 {
		t.Errorf("sent %d more", n)
	}
}

// Nobody looks at how a timer's Send went; whoever comes next hears of it.
func TestHeld_FailureIsNotLost(t *testing.T) {
	lost := errors.New("lost")
	to := &chanSender{err: lost}
	h := hold(to, text("head"), false)
	if err := h.flush(); !errors.Is(err, lost) { // what the timer calls
		t.Fatal(err)
	}
	to.err = errors.New("sent after a failure")
	if err := h.Send(text("data")); !errors.Is(err, lost) {
		t.Errorf("Send: %v", err)
	}
	if err := h.release(); !errors.Is(err, lost) {
		t.Errorf("release: %v", err)
	}
}

// After release the timer sends nothing any more, whatever became of the answer.
func TestHeld_ReleaseEndsIt(t *testing.T) {
	to := &chanSender{sent: make(chan string, 2)}
	h := hold(to, text("head"), false)
	for range 2 {
		if err := h.release(); err != nil {
			t.Fatal(err)
		}
	}
	_ = h.flush() // a timer that was already under way
	if n := len(to.sent); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

// What is ready needs no timer, and goes out in the same order.
func TestHeld_Ready(t *testing.T) {
	to := &chanSender{sent: make(chan string, 3)}
	h := hold(to, text("head"), true)
	if h.timer != nil {
		t.Error("a timer runs")
	}
	if err := h.Send(text("data")); err != nil {
		t.Fatal(err)
	}
	if err := h.release(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"head", "data"}, []string{<-to.sent, <-to.sent}); diff != "" || len(to.sent) > 0 {
		t.Error(diff, len(to.sent))
	}
}

// bufferedBody is a body of which so much is here.
type bufferedBody int

func (bufferedBody) Read([]byte) (int, error) { return 0, io.EOF }
func (bufferedBody) Close() error             { return nil }
func (b bufferedBody) Buffered() int          { return int(b) }

func TestArrived(t *testing.T) {
	for name, tc := range map[string]struct {
		body   io.ReadCloser
		length int64
		want   bool
	}{
		"none":            {http.NoBody, 8, true},
		"whole":           {bufferedBody(8), 8, true},
		"some":            {bufferedBody(1), 8, true},
		"not yet":         {bufferedBody(0), 8, false},
		"begun chunk":     {bufferedBody(chunkHead), -1, true},
		"announced chunk": {bufferedBody(6), -1, false},
		"cannot be said":  {io.NopCloser(strings.NewReader("12345678")), 8, false},
	} {
		if got := arrived(&http.Response{Body: tc.body, ContentLength: tc.length}); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
