package httpgrpc

import (
	"errors"
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
	h := hold(to, text("head"))
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
	h := hold(to, text("head"))
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
	h := hold(to, text("head"))
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
	h := hold(to, text("head"))
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
