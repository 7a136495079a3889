package kasdial

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func urlOf(t *testing.T) *url.URL {
	t.Helper()
	u, err := parseAddress("ws://kas")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestMonitor_WhyAConnectionWasLost(t *testing.T) {
	tests := map[string]struct {
		err     error
		silent  time.Duration
		planned bool
		want    string
	}{
		"GOAWAY":       {nil, time.Second, true, "asked for a new connection"},
		"silent peer":  {nil, 75 * time.Second, false, "does not answer"},
		"closed":       {io.EOF, time.Second, false, "closed the connection"},
		"wrapped":      {fmt.Errorf("read: %w", io.EOF), time.Hour, false, "closed the connection"},
		"reset":        {errors.New("connection reset by peer"), time.Second, false, "reset by peer"},
		"silent reset": {errors.New("connection reset by peer"), time.Hour, false, "reset by peer"},
	}
	for name, test := range tests {
		c := &watchedConn{err: test.err}
		c.lastGot.Store(time.Now().Add(-test.silent).UnixNano())
		e := (&monitor{}).lost(c)
		if e.Change != Disconnected || e.Planned != test.planned || !strings.Contains(e.Reason.Error(), test.want) || e.NextAttempt != maxFirstRetry {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestMonitor_NextAttempt(t *testing.T) {
	m := newMonitor(Config{}, urlOf(t))
	for i, want := range []time.Duration{1000, 1600, 2560, 4096, 6553, 10485, 16777, 20000, 20000} {
		m.failed(errors.New("refused"))
		if got := (<-m.events).NextAttempt.Truncate(time.Millisecond); got != want*time.Millisecond {
			t.Errorf("after failure %d: %v, want %v", i+1, got, want*time.Millisecond)
		}
	}
	m.established(&watchedConn{})
	m.failed(errors.New("refused"))
	if got := (<-m.events).NextAttempt; got != time.Second {
		t.Errorf("after a connection: %v", got)
	}
	for range 2 * maxEvents { // nobody takes them: no attempt may block on that
		m.failed(errors.New("refused"))
	}
}

// The first frame may come in pieces; anything but SETTINGS is no HTTP/2.
func TestWatchedConn_FirstFrame(t *testing.T) {
	tests := map[string]struct {
		pieces []string
		http2  bool
	}{
		"at once":       {[]string{"\x00\x00\x06\x04\x00\x00\x00\x00\x00"}, true},
		"byte by byte":  {[]string{"\x00", "\x00", "\x00", "\x04", "\x00"}, true},
		"in two":        {[]string{"\x00\x00\x06", "\x04\x00"}, true},
		"another frame": {[]string{"\x00\x00\x06\x06\x00"}, false},
		"HTTP/1.1":      {[]string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, false},
		"nothing":       {nil, false},
	}
	for name, test := range tests {
		near, far := net.Pipe()
		go func() {
			for _, piece := range test.pieces {
				_, _ = io.WriteString(far, piece)
			}
			far.Close()
		}()
		m := newMonitor(Config{}, urlOf(t))
		c := newWatchedConn(near, m)
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		if c.isHTTP2 != test.http2 || (len(m.events) == 0) != test.http2 {
			t.Errorf("%s: HTTP/2 %v, %d failures told", name, c.isHTTP2, len(m.events))
		}
		if !c.gone() {
			t.Errorf("%s: not gone", name)
		}
	}
}
