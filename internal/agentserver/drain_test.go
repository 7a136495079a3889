package agentserver

import (
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// farewell reads what the server sends until it closes the connection, and says when it said goodbye, and when it ended stream id.
func (r *rawHTTP2) farewell(id uint32) (goodbye, ended time.Time) {
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			return goodbye, ended
		}
		switch f := frame.(type) {
		case *http2.GoAwayFrame:
			if goodbye.IsZero() {
				goodbye = time.Now()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id && f.StreamEnded() {
				ended = time.Now()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = r.framer.WritePing(true, f.Data)
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = r.framer.WriteSettingsAck()
			}
		}
	}
}

// Agents are asked to move first; what is parked here ends only when they had time to park elsewhere.
func TestServer_MovesBeforeItBreaks(t *testing.T) {
	const move = 500 * time.Millisecond
	f := start(t, func(cfg *Config) { cfg.ListenGracePeriod = move })
	r := f.raw(t)
	id := r.headers(poll, "authorization", "Bearer token")
	eventually(t, "it polls", func() bool { return f.running.Load() == 1 })
	f.cancel()
	goodbye, ended := r.farewell(id)
	f.wait(t)
	if goodbye.IsZero() || ended.Sub(goodbye) < move/2 {
		t.Errorf("GOAWAY at %v, the end of the poll at %v", goodbye, ended)
	}
}

// As long as requests of Kubernetes clients can arrive, agents are not sent away, and new ones are welcome.
func TestServer_StaysWhileNeeded(t *testing.T) {
	needed := make(chan struct{})
	f := start(t, func(cfg *Config) { cfg.Needed = needed })
	conn := f.client(t, true)
	polls := open(t, conn, poll)
	eventually(t, "it polls", func() bool { return f.running.Load() == 1 })
	f.cancel()
	for range 20 {
		if err := call(t, f.client(t, false), 1); err != nil {
			t.Fatalf("a new connection: %v", err)
		}
	}
	if f.running.Load() != 1 {
		t.Error("the poll has ended")
	}
	close(needed)
	var nothing []byte
	if err := polls.RecvMsg(&nothing); err != io.EOF {
		t.Errorf("the poll ended with %v", err)
	}
	f.wait(t)
}

func TestSpreadOf(t *testing.T) {
	for _, tc := range []struct {
		agents      int
		drain, want time.Duration
	}{
		{0, time.Hour, 0},
		{1, time.Hour, 4 * time.Millisecond},
		{2000, time.Hour, 8 * time.Second},
		{100_000, time.Hour, maxSpread},
		{100_000, time.Second, 500 * time.Millisecond},
	} {
		if got := spreadOf(tc.agents, tc.drain); got != tc.want {
			t.Errorf("%d agents in %v: %v, want %v", tc.agents, tc.drain, got, tc.want)
		}
	}
}
