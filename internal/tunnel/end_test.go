package tunnel

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

func TestRevoked_EndsParkedAndBusyStreams(t *testing.T) {
	l := newLine(t)
	l.pool(2, echo)
	tun := l.open(l.ctx())
	eventually(t, "one is parked", func() bool { return l.registry.Presence(agentID).Idle == 1 })
	l.revoke(fault.New(fault.Unauthenticated, fault.GitLab, "unauthenticated"))
	for range 2 {
		if err := <-l.ended; status.Code(err) != codes.Unauthenticated {
			t.Errorf("a stream ended with %v", err)
		}
	}
	if _, err := tun.Recv(); err == nil {
		t.Error("a request of a revoked agent goes on")
	}
	tun.Finish(false)
}

func TestAgeLimit_EndsIdleStreamsOnly(t *testing.T) {
	l := newLine(t)
	l.pool(2, echo)
	tun := l.open(l.ctx())
	eventually(t, "one is parked", func() bool { return l.registry.Presence(agentID).Idle == 1 })
	l.aged()
	if err := <-l.ended; err != nil {
		t.Errorf("the parked stream ended with %v, want OK", err)
	}
	if got, err := roundTrip(tun, "still here"); err != nil || got != "still here" {
		t.Errorf("got %q, %v", got, err)
	}
	tun.Finish(false)
}

func TestStop_EndsParkedStreamsWithOK(t *testing.T) {
	l := newLine(t)
	l.pool(2, echo)
	eventually(t, "two are parked", func() bool { return l.registry.Presence(agentID).Idle == 2 })
	l.registry.Stop()
	for range 2 {
		if err := <-l.ended; err != nil {
			t.Errorf("got %v, want OK", err)
		}
	}
}

func TestShutdown_RunningCallIsBounded(t *testing.T) {
	l := newLine(t)
	running := make(chan struct{})
	p, err := NewPool(PoolConfig{
		Client: l.dial(), DrainTimeout: time.Millisecond, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		Services: map[string]map[string]Handler{testService: {echoMethod: func(ctx context.Context, _ metadata.MD, _ httpgrpc.ResponderStream) error {
			close(running)
			<-ctx.Done()
			return context.Cause(ctx)
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	tun := l.open(l.ctx())
	<-running
	cancel()
	if _, err := tun.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "agent is shutting down") {
		t.Errorf("the call ends with %v", err)
	}
	tun.Finish(true)
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the pool did not stop")
	}
}
