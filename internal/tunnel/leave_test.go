package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// pod is a pool that can be stopped within a test.
type pod struct {
	*Pool
	stop context.CancelFunc
	done chan error
}

func (l *line) pod(cfg PoolConfig) *pod {
	l.t.Helper()
	if cfg.Client == nil {
		cfg.Client = l.dial()
	}
	cfg.Log, cfg.Registerer = zap.NewNop(), prometheus.NewRegistry()
	cfg.Services = map[string]map[string]Handler{testService: {echoMethod: echo}}
	cfg.DrainTimeout = patience
	p, err := NewPool(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	one := &pod{Pool: p, stop: cancel, done: make(chan error, 1)}
	go func() { one.done <- p.Run(ctx) }()
	l.t.Cleanup(one.end)
	return one
}

// end stops the pod and waits; it may be called more than once.
func (p *pod) end() {
	p.stop()
	p.done <- <-p.done
}

// leaver is how a pod of a line says that it stops.
func (l *line) leaver(id int64) func(context.Context) error {
	return func(context.Context) error { l.registry.Leave(agentID, id); return nil }
}

// Pods come and go under load; no call is ever given to one that does not serve it.
func TestLeave_LosesNoCall(t *testing.T) {
	l := newLine(t)
	over := make(chan struct{})
	defer close(over)
	go func() { // nobody else wants to know how streams end
		for {
			select {
			case <-l.ended:
			case <-over:
				return
			}
		}
	}()
	l.pod(PoolConfig{Pod: 1, Leave: l.leaver(1)})
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var calls atomic.Int64
	for range 8 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if err := l.call(); err != nil {
					t.Error(err)
					cancel()
				}
				calls.Add(1)
			}
		})
	}
	for id := int64(2); id < 22 && ctx.Err() == nil; id++ {
		second := l.pod(PoolConfig{Pod: id, Leave: l.leaver(id)})
		before := calls.Load()
		eventually(t, "both pods serve", func() bool { return ctx.Err() != nil || calls.Load() > before+100 })
		second.end()
	}
	cancel()
	callers.Wait()
}

// call finds a stream and makes one call on it.
func (l *line) call() error {
	t, err := l.registry.Find(l.t.Context(), agentID, wanted)
	if err != nil {
		return err
	}
	err = t.Start("/"+wanted, nil)
	if err == nil {
		_, err = roundTrip(t, "hello")
	}
	if err == nil {
		err = t.CloseSend()
	}
	if err == nil {
		if _, err = t.Recv(); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	t.Finish(err == nil)
	return err
}

// Only the pod that leaves is concerned, and what it runs goes on.
func TestLeave_OnePodOnly(t *testing.T) {
	l := newLine(t)
	first := l.pod(PoolConfig{Pod: 1, Leave: l.leaver(1)})
	eventually(t, "the first pod is there", func() bool { return l.registry.Presence(agentID).Idle == minIdle })
	running := l.open(l.ctx())
	l.pod(PoolConfig{Pod: 2})
	l.registry.Leave(agentID, 3)
	l.registry.Leave(agentID+1, 1)
	l.registry.Leave(agentID, 0)
	eventually(t, "both pods are there", func() bool {
		p := l.registry.Presence(agentID)
		return p.Busy == 1 && p.Idle >= 2*minIdle
	})
	first.stop()
	eventually(t, "the first pod parks nothing", func() bool { return l.registry.Presence(agentID).Idle == minIdle })
	if got, err := roundTrip(running, "still here"); got != "still here" || err != nil {
		t.Errorf("the running call: %q, %v", got, err)
	}
	select {
	case err := <-first.done:
		t.Fatalf("the pod has ended with a call running: %v", err)
	default:
	}
	if err := running.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := running.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	running.Finish(true)
	first.end()
}

// A stream that was found and is given back is not parked again when its pod has left meanwhile.
func TestLeave_ReleasedStream(t *testing.T) {
	l := newLine(t)
	l.pod(PoolConfig{Pod: 1})
	found, err := l.registry.Find(l.ctx(), agentID, wanted)
	if err != nil {
		t.Fatal(err)
	}
	l.registry.Leave(agentID, 1)
	l.registry.Release(found)
	if err := <-l.ended; err != nil {
		t.Errorf("a stream of the pod: %v", err)
	}
}

// A kas that does not understand, or cannot be reached, holds nobody up.
func TestPool_LeavesAStockKas(t *testing.T) {
	for name, answer := range map[string]error{"does nothing": nil, "cannot be reached": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			var asked atomic.Int32
			p := l.pod(PoolConfig{Leave: func(context.Context) error { asked.Add(1); return answer }})
			eventually(t, "the pod is there", func() bool { return l.registry.Presence(agentID).Idle == minIdle })
			p.end()
			if n := asked.Load(); n < 1 || n > leaveTries {
				t.Errorf("asked %d times", n)
			}
			eventually(t, "the streams are gone", func() bool { return !l.registry.Presence(agentID).Connected })
		})
	}
}

// switched is a channel that has a new connection when a test says so.
type switched struct {
	grpc.ClientConnInterface
	now atomic.Pointer[grpc.ClientConn]
}

func (s *switched) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return s.now.Load().NewStream(ctx, desc, method, opts...)
}

// Streams are parked on a new connection before those of the old one end, and afterwards there are no more than before.
func TestPool_ParksOnTheNewConnectionFirst(t *testing.T) {
	l := newLine(t)
	client, connected := &switched{}, make(chan string, 1)
	connect := func() {
		dialer := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err == nil {
				connected <- conn.LocalAddr().String()
			}
			return conn, err
		})
		conn, err := grpc.NewClient("passthrough:"+l.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), dialer)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		client.now.Store(conn)
		conn.Connect()
	}
	idle := func(n int) func() bool { return func() bool { return l.registry.Presence(agentID).Idle == n } }
	connect()
	p := l.pod(PoolConfig{Client: client, Pod: 1, Connected: connected})
	eventually(t, "streams are parked", idle(minIdle))
	connect()
	eventually(t, "as many again", idle(2*minIdle))
	s := l.registry.shard(agentID)
	s.mu.Lock()
	old := s.agents[agentID].conns[0]
	for e := old.idle.Front(); e != nil; e = old.idle.Front() {
		parked := e.Value.(*stream)
		old.idle.Remove(e)
		parked.element = nil
		close(parked.retired)
	}
	s.mu.Unlock()
	eventually(t, "the old slots stop", func() bool { return p.idleNow() == minIdle })
	eventually(t, "the new streams are there", idle(minIdle))
	// A connection that was there before its streams is no reason for more of them.
	for range 3 { // when the third one can be put there, the first one was worked on
		connected <- p.newestNow()
	}
	if n := p.idleNow(); n != minIdle {
		t.Errorf("%d idle slots", n)
	}
}

func (p *pod) newestNow() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newest
}
