package kasdial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
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
	for i, want := range []time.Duration{100, 140, 196, 274, 384, 538, 753, 1054, 1476, 2066, 2893, 4050, 5669, 7937, 11112, 15557, 20000, 20000} {
		m.failed(errors.New("refused"), false)
		if got := (<-m.events).NextAttempt.Round(time.Millisecond); got != want*time.Millisecond {
			t.Errorf("after failure %d: %v, want %v", i+1, got, want*time.Millisecond)
		}
	}
	m.established(&watchedConn{})
	m.failed(errors.New("502"), true)
	if got := (<-m.events).NextAttempt; got != baseDelay+afterAnswer {
		t.Errorf("after a connection: %v", got)
	}
	for range 2 * maxEvents { // nobody takes them: no attempt may block on that
		m.failed(errors.New("refused"), false)
	}
}

// What a middlebox closes in order and is replaced at once is no warning; what is not replaced is one.
func TestMonitor_ClosedInOrder(t *testing.T) {
	tests := map[string]struct {
		next  *Event
		level zapcore.Level
	}{
		"replaced":     {&Event{Change: Connected}, zap.InfoLevel},
		"not replaced": {&Event{Change: AttemptFailed, Reason: errors.New("refused")}, zap.WarnLevel},
		"silence":      {nil, zap.WarnLevel},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zap.DebugLevel)
				told := &events{}
				m := newMonitor(Config{Log: zap.New(core), OnState: told.add}, urlOf(t))
				ctx, cancel := context.WithCancel(t.Context())
				go m.report(ctx)
				m.tell(m.lost(&watchedConn{err: io.EOF}))
				synctest.Wait()
				if told.count(func(e Event) bool { return e.Change == Disconnected && e.Closed }) != 1 {
					t.Error("the loss is not told at once")
				}
				time.Sleep(settleTime / 2)
				if test.next != nil {
					m.tell(*test.next)
				}
				time.Sleep(settleTime)
				cancel()
				synctest.Wait()
				lines := logs.FilterMessage("Disconnected from gRPC server").All()
				if len(lines) != 1 || lines[0].Level != test.level {
					t.Errorf("lines %+v, want one at %s", lines, test.level)
				}
			})
		})
	}
}

// While there is a connection, a failure elsewhere is only counted.
func TestMonitor_FailureBesideAConnection(t *testing.T) {
	m := newMonitor(Config{}, urlOf(t))
	m.up = true
	m.failed(errors.New("refused"), false)
	if len(m.events) > 0 || testutil.ToFloat64(m.attempts.WithLabelValues("failure")) != 1 {
		t.Errorf("%d events", len(m.events))
	}
}

func TestWatchedConn_StreamLimit(t *testing.T) {
	const limited = "\x00\x00\x12\x04\x00\x00\x00\x00\x00" + "\x00\x04\x00\x01\x00\x00" + "\x00\x03\x00\x00\x00\x80" + "\x00\x05\x00\xff\xff\xff"
	tests := map[string]struct {
		sent string
		want uint32
	}{
		"a limit":    {limited + "\x00\x00", 128},
		"none":       {"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + "\x00\x04\x00\x01\x00\x00", 0},
		"empty":      {"\x00\x00\x00\x04\x00\x00\x00\x00\x00", 0},
		"cut off":    {limited[:20], 0},
		"odd length": {"\x00\x00\x08\x04\x00\x00\x00\x00\x00" + "\x00\x03\x00\x00\x00\x07" + "\x00\x03", 7},
		"endless":    {"\xff\xff\xff\x04\x00\x00\x00\x00\x00" + strings.Repeat("\x00\x03\x00\x00\x00\x09", 1000), 9},
		"no HTTP/2":  {"HTTP/1.1 400 Bad Request\r\n\r\n", 0},
	}
	for name, test := range tests {
		for _, step := range []int{1, 7, 1 << 20} {
			near, far := net.Pipe()
			go func() {
				for rest := test.sent; rest != ""; rest = rest[min(step, len(rest)):] {
					_, _ = io.WriteString(far, rest[:min(step, len(rest))])
				}
				far.Close()
			}()
			m := newMonitor(Config{}, urlOf(t))
			c := newWatchedConn(near, m)
			_, _ = io.Copy(io.Discard, c)
			c.Close()
			if got := m.limit.Load(); got != test.want || len(c.head) > maxSettings {
				t.Errorf("%s in steps of %d: %d, want %d", name, step, got, test.want)
			}
		}
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
