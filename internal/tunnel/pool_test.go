package tunnel

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func TestPool_Room(t *testing.T) {
	limit := 0
	tests := map[string]struct {
		limit func() int
		now   int
		want  int
	}{
		"not asked":       {nil, 0, 500},
		"no limit":        {func() int { return limit }, 0, 500},
		"a limit":         {func() int { return limit }, 128, 120},
		"a high limit":    {func() int { return limit }, 1000, 500},
		"hardly anything": {func() int { return limit }, 3, minIdle},
	}
	for name, test := range tests {
		limit = test.now
		if got := (&Pool{cfg: PoolConfig{MaxStreams: 500, Limit: test.limit}}).room(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// A connection that takes few streams is used up to what is reserved for other calls; requests beyond wait and are served later.
func TestPool_ConnectionOfFewStreams(t *testing.T) {
	const room = 4
	l := newLine(t)
	var limit atomic.Int32
	limit.Store(room + reserved)
	p, err := NewPool(PoolConfig{
		Client: l.dial(), Services: map[string]map[string]Handler{testService: {echoMethod: echo}},
		Limit: func() int { return int(limit.Load()) }, DrainTimeout: time.Second, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var busy []*Tunnel
	for range room {
		busy = append(busy, l.open(l.ctx()))
	}
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := l.registry.Find(short, agentID, wanted); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one request too many: %v", err)
	}
	found := make(chan *Tunnel, 1)
	go func() {
		tun, err := l.registry.Find(l.ctx(), agentID, wanted)
		if err != nil {
			t.Error(err)
		}
		found <- tun
	}()
	busy[0].Finish(false)
	if tun := <-found; tun != nil {
		tun.Finish(false)
	}
	for _, tun := range busy[1:] {
		tun.Finish(false)
	}
	eventually(t, "all streams are parked again", func() bool {
		presence := l.registry.Presence(agentID)
		return presence.Busy == 0 && presence.Idle == room
	})
}
