package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	agentID     = 7
	testService = "test.Service"
	echoMethod  = "Echo"
	wanted      = testService + "/" + echoMethod
	// patience is how long a test waits for what must happen.
	patience = time.Minute
)

// line is a registry behind a real gRPC server, and a way to dial it.
type line struct {
	t        *testing.T
	registry *Registry
	addr     string
	session  context.Context
	revoke   context.CancelCauseFunc
	aged     context.CancelFunc
	opened   atomic.Int32 // how many streams there were
	ended    chan error   // what each Connect returned
}

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{t: t, registry: NewRegistry(RegistryConfig{Registerer: prometheus.NewRegistry(), DescriptorTimeout: time.Second}), ended: make(chan error, 10000)}
	l.session, l.revoke = context.WithCancelCause(t.Context())
	ageLimit, aged := context.WithCancel(t.Context())
	l.aged = aged
	l.serve(func(stream grpc.ServerStream) error {
		l.opened.Add(1)
		err := l.registry.Connect(stream, agentID, l.session, ageLimit)
		l.ended <- err
		return err
	})
	return l
}

// serve makes connect what serves the streams of agents.
func (l *line) serve(connect func(grpc.ServerStream) error) {
	l.t.Helper()
	server := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: reversetunnel.ReverseTunnel_ServiceDesc.ServiceName,
		Streams: []grpc.StreamDesc{{
			StreamName: "Connect", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return connect(stream) },
		}},
	}, nil)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	l.t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			l.t.Error(err)
		}
	})
	l.addr = lis.Addr().String()
}

func (l *line) dial() *grpc.ClientConn {
	l.t.Helper()
	conn, err := grpc.NewClient(l.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// pool runs a pool with one handler until the test ends.
func (l *line) pool(maxStreams int, h Handler) *Pool {
	l.t.Helper()
	p, err := NewPool(PoolConfig{
		Client: l.dial(), Services: map[string]map[string]Handler{testService: {echoMethod: h}}, Extensions: []string{"ext.S/M"},
		MaxStreams: maxStreams, DrainTimeout: time.Second, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			l.t.Error(err)
		}
	}()
	l.t.Cleanup(func() { cancel(); <-done })
	return p
}

// open finds a stream and starts a call on it.
func (l *line) open(ctx context.Context) *Tunnel {
	l.t.Helper()
	t, err := l.registry.Find(ctx, agentID, wanted)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := t.Start("/"+wanted, metadata.Pairs("k", "v")); err != nil {
		l.t.Fatal(err)
	}
	return t
}

func (l *line) ctx() context.Context {
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	l.t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func text(s string) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer([]byte(s))} }

// echo sends back what it gets.
func echo(_ context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
	for {
		msg, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(msg); err != nil {
			return err
		}
	}
}

func roundTrip(t *Tunnel, msg string) (string, error) {
	if err := t.Send(text(msg)); err != nil {
		return "", err
	}
	got, err := t.Recv()
	if err != nil {
		return "", err
	}
	defer got.Free()
	return string(got.Materialize()), nil
}

func TestCall_BothWays(t *testing.T) {
	l := newLine(t)
	l.pool(10, echo)
	tun := l.open(l.ctx())
	for _, msg := range []string{"a", "", "some more"} {
		got, err := roundTrip(tun, msg)
		if err != nil || got != msg {
			t.Fatalf("sent %q, got %q, %v", msg, got, err)
		}
	}
	if err := tun.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := tun.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("want EOF, got %v", err)
	}
	tun.Finish(true)
	eventually(t, "the stream is parked again", func() bool { return l.registry.Presence(agentID).Busy == 0 })
	select {
	case err := <-l.ended:
		t.Errorf("the agent's RPC ended with %v", err)
	default:
	}
}

func TestCall_LargeMessagesKeepTheirBytes(t *testing.T) {
	l := newLine(t)
	l.pool(10, echo)
	tun := l.open(l.ctx())
	defer tun.Finish(false)
	payload := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go func() {
		for range 8 {
			if tun.Send(mem.BufferSlice{mem.SliceBuffer(payload)}) != nil {
				return
			}
		}
	}()
	for range 8 {
		got, err := tun.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Materialize(), payload) {
			t.Fatal("payload changed on the way")
		}
		got.Free()
	}
}

func TestCall_ErrorBeforeAnyAnswer(t *testing.T) {
	l := newLine(t)
	l.pool(10, func(context.Context, metadata.MD, httpgrpc.ResponderStream) error {
		return fault.New(fault.Unavailable, fault.APIServer, "connection refused")
	})
	tun := l.open(l.ctx())
	_, err := tun.Recv()
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "connection refused" {
		t.Fatalf("got %v", err)
	}
	tun.Finish(true)
}

// What is no text would not fit into the Error message, and the caller would be told of a lost agent.
func TestCall_ErrorIsNoText(t *testing.T) {
	l := newLine(t)
	l.pool(10, func(context.Context, metadata.MD, httpgrpc.ResponderStream) error {
		return fault.New(fault.Unavailable, fault.APIServer, "it said \xff")
	})
	tun := l.open(l.ctx())
	_, err := tun.Recv()
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "it said \uFFFD" {
		t.Errorf("got %v", err)
	}
	tun.Finish(true)
}

func TestCall_PanicCostsOneCall(t *testing.T) {
	l := newLine(t)
	var calls atomic.Int32
	l.pool(10, func(ctx context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		if calls.Add(1) == 1 {
			panic("boom")
		}
		return echo(ctx, md, s)
	})
	tun := l.open(l.ctx())
	if _, err := tun.Recv(); status.Code(err) != codes.Internal {
		t.Fatalf("got %v", err)
	}
	tun.Finish(false)
	tun = l.open(l.ctx())
	if got, err := roundTrip(tun, "alive"); err != nil || got != "alive" {
		t.Fatalf("got %q, %v", got, err)
	}
	tun.Finish(false)
}

func TestCall_UnknownMethod(t *testing.T) {
	l := newLine(t)
	l.pool(10, echo)
	tun, err := l.registry.Find(l.ctx(), agentID, wanted)
	if err != nil {
		t.Fatal(err)
	}
	if err := tun.Start("/other.Service/Method", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tun.Recv(); status.Code(err) != codes.Unimplemented {
		t.Fatalf("got %v", err)
	}
	tun.Finish(false)
}

func TestCall_CallerGoesAway_HandlerIsCancelled(t *testing.T) {
	l := newLine(t)
	cancelled := make(chan struct{})
	l.pool(10, func(ctx context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
		if err := s.Send(text("started")); err != nil {
			return err
		}
		s.Ahead()
		<-ctx.Done() // like a watch that never ends by itself
		close(cancelled)
		return ctx.Err()
	})
	tun := l.open(l.ctx())
	if err := tun.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if got, err := tun.Recv(); err != nil || string(got.Materialize()) != "started" {
		t.Fatal(err)
	}
	tun.Finish(false)
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Fatal("the handler was not cancelled")
	}
}

func TestCall_AbortUnblocksRecv(t *testing.T) {
	l := newLine(t)
	l.pool(10, func(ctx context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
		s.Ahead()
		<-ctx.Done()
		return ctx.Err()
	})
	tun := l.open(l.ctx())
	time.AfterFunc(time.Millisecond, func() { tun.Abort(fault.New(fault.Canceled, fault.Client, "gone")) })
	if _, err := tun.Recv(); err == nil {
		t.Fatal("no error")
	}
	tun.Finish(false)
}

func TestBurst_IsAnsweredAndShrinks(t *testing.T) {
	l := newLine(t)
	p := l.pool(1000, echo)
	const n = 300
	hold := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		wg.Go(func() {
			tun, err := l.registry.Find(l.ctx(), agentID, wanted)
			if err != nil {
				errs <- err
				return
			}
			if err := tun.Start("/"+wanted, nil); err != nil {
				errs <- err
				return
			}
			got, err := roundTrip(tun, "x")
			if err != nil || got != "x" {
				errs <- fmt.Errorf("got %q, %w", got, err)
			}
			<-hold // all n are in use at once
			tun.Finish(false)
		})
	}
	eventually(t, "all requests have a stream", func() bool { return l.registry.Presence(agentID).Busy >= n })
	close(hold)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	// An hour later the surplus is retired; slots used within the last minute come back once, the others stop.
	eventually(t, "streams are parked again", func() bool { return l.registry.Presence(agentID).Busy == 0 })
	eventually(t, "never used slots stop", func() bool {
		l.registry.retire(time.Now().Add(time.Hour))
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.idle <= n && p.active == 0
	})
}

func TestMaximum_IsRefusedWithRetryAfter(t *testing.T) {
	l := newLine(t)
	l.pool(3, echo)
	var held []*Tunnel
	for range 3 {
		held = append(held, l.open(l.ctx()))
	}
	_, err := l.registry.Find(l.ctx(), agentID, wanted)
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.ResourceExhausted || f.RetryAfter == 0 {
		t.Fatalf("got %v", err)
	}
	for _, tun := range held {
		tun.Finish(false)
	}
	eventually(t, "streams are given back", func() bool { return l.registry.Presence(agentID).Busy == 0 })
	tun := l.open(l.ctx())
	tun.Finish(false)
}

func TestFind_WaitsForTheAgent(t *testing.T) {
	l := newLine(t)
	found := make(chan error, 1)
	go func() {
		tun, err := l.registry.Find(l.ctx(), agentID, wanted)
		if err == nil {
			tun.Finish(false)
		}
		found <- err
	}()
	eventually(t, "the request waits", func() bool {
		s := l.registry.shard(agentID)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.agents[agentID] != nil && s.agents[agentID].waiters.Len() == 1
	})
	l.pool(10, echo)
	if err := <-found; err != nil {
		t.Fatal(err)
	}
}

func TestFind_GivesUpWithItsContext(t *testing.T) {
	l := newLine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := l.registry.Find(ctx, agentID, wanted); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	s := l.registry.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.agents) != 0 {
		t.Error("an agent that is not here is still remembered")
	}
}

// A request may come before its agent: when that turns out to lack what is wanted, there is nothing to wait for.
func TestFind_AgentComesWithoutWhatIsWanted(t *testing.T) {
	l := newLine(t)
	found := make(chan error, 1)
	go func() { _, err := l.registry.Find(t.Context(), agentID, "ext.S/Other"); found <- err }()
	eventually(t, "the request waits", func() bool {
		s := l.registry.shard(agentID)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.agents[agentID] != nil && s.agents[agentID].waiters.Len() == 1
	})
	l.pool(10, echo)
	if err := <-found; fault.KindOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), "ext.S/Other") {
		t.Fatalf("got %v", err)
	}
	eventually(t, "the streams are parked", func() bool { return l.registry.Presence(agentID).Idle == 2 })
	if _, err := l.registry.Find(t.Context(), agentID, wanted); err != nil {
		t.Errorf("what the agent has: %v", err)
	}
}

func TestFind_OnlyWhatIsAnnounced(t *testing.T) {
	l := newLine(t)
	l.pool(10, echo)
	eventually(t, "the agent is connected", func() bool { return l.registry.Presence(agentID).Idle == 2 })
	if announced, _ := l.registry.Announces(agentID, wanted, "ext.S/M"); !announced {
		t.Error("the extension is not seen")
	}
	if announced, connected := l.registry.Announces(agentID, "ext.S/Other"); announced || !connected {
		t.Error("an extension is seen that was not announced")
	}
	if l.registry.TryFind(agentID, "ext.S/Other") != nil {
		t.Error("a stream was given away that lacks what is wanted")
	}
}
