package gitaly

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"gitlab.com/agentk/agentk/internal/fault"
)

func TestNew_Bad(t *testing.T) {
	taken := prometheus.NewRegistry()
	taken.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "limiter_limit", Help: "x"}))
	for name, cfg := range map[string]Config{
		"log is required":   {},
		"must be positive":  {Log: zap.NewNop(), Global: RateLimit{PerSecond: 1}},
		"rate limit per":    {Log: zap.NewNop(), PerServer: RateLimit{PerSecond: -1, Burst: 1}},
		"global rate limit": {Log: zap.NewNop(), Global: RateLimit{Burst: 1}},
		"limiter_limit":     {Log: zap.NewNop(), Registerer: taken},
	} {
		c, err := New(cfg)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestMetrics_Shared: the limiters of a process share their metrics.
func TestMetrics_Shared(t *testing.T) {
	registry := prometheus.NewRegistry()
	for range 2 {
		c, err := New(Config{Log: zap.NewNop(), Registerer: registry})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.Contains(p.Text, "milliseconds") { // the name that dashboards know
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestReap(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	p := b.on("full", "main")
	names := func() (names []string) {
		families, err := b.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "limiter_limit" {
					names = append(names, m.Label[0].GetValue()+" "+m.Label[1].GetValue())
				}
			}
		}
		return names
	}
	head := func() {
		t.Helper()
		if _, err := b.client.Head(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	head()
	global, server := "gitaly_client_global {refill/s}", "gitaly_client_"+b.server.TCPAddress()+" {refill/s}"
	if got := names(); !cmp.Equal(got, []string{global, server}) && !cmp.Equal(got, []string{server, global}) {
		t.Errorf("limiters %v", got)
	}
	cc, release, err := b.client.pool.borrow(p.Gitaly.Address, p.Gitaly.Token)
	if err != nil {
		t.Fatal(err)
	}
	b.clock.Add(idleTime)
	b.client.reap()
	if cc.GetState() == connectivity.Shutdown {
		t.Error("closed while in use")
	}
	release()
	b.client.reap()
	if len(b.client.pool.conns) != 1 {
		t.Error("closed at once after use")
	}
	b.clock.Add(idleTime)
	b.client.reap()
	if cc.GetState() != connectivity.Shutdown || len(b.client.pool.conns) != 0 {
		t.Error("an unused connection is not closed")
	}
	if got := names(); !cmp.Equal(got, []string{global}) {
		t.Errorf("limiters %v", got)
	}
	head()
	b.clock.Add(forgetTime)
	b.client.reap()
	if m := b.client.memory; len(m.repos) != 0 || len(m.unknown) != 0 {
		t.Errorf("remembered %v, %v", m.repos, m.unknown)
	}
}

// TestPool_OneConnectionPerToken: calls share a connection, except that a new token never travels on an old one.
func TestPool_OneConnectionPerToken(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for range 3 {
		if _, err := b.client.Head(t.Context(), b.on("full", "main")); err != nil {
			t.Fatal(err)
		}
	}
	p := b.on("full", "main")
	p.Gitaly.Token = "rotated"
	_, err := b.client.Head(t.Context(), p)
	b.wantKind(err, fault.Unavailable)
	if n := len(b.client.pool.conns); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestPool_BadAddress(t *testing.T) {
	p := newPool(func(string, string) (*grpc.ClientConn, error) { return nil, context.Canceled }, time.Now)
	if _, _, err := p.borrow("x", ""); err == nil || len(p.conns) != 0 {
		t.Errorf("got %v, %d connections", err, len(p.conns))
	}
	p.close()
	if _, _, err := p.borrow("x", ""); err != errClosed {
		t.Errorf("got %v", err)
	}
}

func TestLimits_Wait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := newLimits(RateLimit{PerSecond: 10, Burst: 4}, RateLimit{PerSecond: 1, Burst: 2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		wait := func(address string, want time.Duration) {
			t.Helper()
			begin := time.Now()
			if err := l.wait(t.Context(), address); err != nil || time.Since(begin).Round(time.Millisecond) != want {
				t.Errorf("%s: waited %v, %v, want %v", address, time.Since(begin), err, want)
			}
		}
		wait("a", 0)
		wait("a", 0)
		wait("b", 0)
		wait("c", 0)
		wait("c", 100*time.Millisecond) // for all servers
		wait("a", 900*time.Millisecond) // for its own
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		begin := time.Now()
		if err := l.wait(ctx, "a"); err == nil || time.Since(begin) > time.Second/2 {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}

// TestLimits_TooFarAway: a call whose turn does not come in time fails as one to try again.
func TestLimits_TooFarAway(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	c, err := New(Config{PerServer: RateLimit{PerSecond: 0.001, Burst: 1}, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Head(t.Context(), b.on("full", "main")); err != nil {
		t.Fatal(err)
	}
	_, err = c.Head(t.Context(), b.on("full", "main"))
	b.wantKind(err, fault.Unavailable, "too many calls")
}
