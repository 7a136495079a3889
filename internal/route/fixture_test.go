package route

import (
	"context"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/jwtauth"
	"gitlab.com/agentk/agentk/internal/peer"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	agentID     = 7
	testService = "test.Service"
	echoMethod  = "Echo"
	extension   = "ext.Service/Method"
	// patience is how long a test waits for what must happen.
	patience = time.Minute
)

// fleet is what the replicas of a test share.
type fleet struct {
	t     testing.TB
	store *countingStore
	keys  jwtauth.Keys
}

// countingStore counts what is asked of a memory store, and fails on demand.
type countingStore struct {
	*store.Memory
	watches, seen, writes atomic.Int64
	broken                atomic.Pointer[error]
}

func (c *countingStore) Watch(ctx context.Context, agentID int64) <-chan []string {
	c.watches.Add(1)
	return c.Memory.Watch(ctx, agentID)
}

func (c *countingStore) LastSeen(ctx context.Context, agentID int64) (time.Time, bool, error) {
	c.seen.Add(1)
	return c.Memory.LastSeen(ctx, agentID)
}

func (c *countingStore) RefreshTunnels(ctx context.Context, url string, ttl time.Duration, ids ...int64) error {
	if err := c.broken.Load(); err != nil {
		return *err
	}
	c.writes.Add(1)
	return c.Memory.RefreshTunnels(ctx, url, ttl, ids...)
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := jwtauth.OpenSecret(path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t: t, store: &countingStore{Memory: store.NewMemory(store.MemoryConfig{})}, keys: keys}
}

// replica is one kas: its registry, the listener of its agents, its private API and its router.
type replica struct {
	fleet     *fleet
	t         testing.TB
	registry  *tunnel.Registry
	router    *Router
	announcer *Announcer
	url       string
	agents    string // address of the agent listener
	metrics   *prometheus.Registry
	ageLimit  context.CancelFunc
	kill      func()
	leave     func() // stops announcing
}

// start adds a replica that came up at a time.
func (f *fleet) start(started time.Time) *replica {
	f.t.Helper()
	r := &replica{fleet: f, t: f.t, metrics: prometheus.NewPedanticRegistry()}
	private := listen(f.t)
	r.url = "grpc://" + private.Addr().String()
	var err error
	r.announcer, err = NewAnnouncer(AnnouncerConfig{
		Locations: f.store, URL: r.url, TTL: time.Minute, Refresh: 30 * time.Second, Linger: 50 * time.Millisecond,
		Log: zap.NewNop(), Registerer: r.metrics,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	r.registry = tunnel.NewRegistry(tunnel.RegistryConfig{Registerer: r.metrics, Changed: r.announcer.Changed})
	server, err := peer.NewServer(peer.ServerConfig{
		Listener: private, Keys: f.keys, Registry: r.registry, Methods: map[string][]string{testService: {echoMethod}},
		DrainTimeout: -1, Log: zap.NewNop(), Registerer: r.metrics,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	pool, err := peer.NewPool(peer.PoolConfig{Keys: f.keys})
	if err != nil {
		f.t.Fatal(err)
	}
	r.router = New(Config{
		Registry: r.registry, LastSeen: f.store.LastSeen, Started: started, Registerer: r.metrics,
		Others: &Others{OwnURL: r.url, Watch: f.store.Watch, Peers: pool},
	})
	f.t.Cleanup(pool.Close)
	r.kill = r.run(server.Run)
	r.run(r.router.Run)
	r.leave = r.run(func(ctx context.Context) error { return r.announcer.Run(ctx, r.registry) })
	r.serveAgents()
	return r
}

// run runs a part until the test ends or the returned function is called.
func (r *replica) run(part func(context.Context) error) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := part(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	stop := func() { cancel(); <-done }
	r.t.Cleanup(stop)
	return stop
}

func (r *replica) serveAgents() {
	r.t.Helper()
	var ageLimit context.Context
	ageLimit, r.ageLimit = context.WithCancel(context.Background())
	server := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: reversetunnel.ReverseTunnel_ServiceDesc.ServiceName,
		Streams: []grpc.StreamDesc{{
			StreamName: "Connect", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error {
				return r.registry.Connect(stream, agentID, context.Background(), ageLimit)
			},
		}},
	}, nil)
	ln := listen(r.t)
	r.agents = ln.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	r.t.Cleanup(func() { server.Stop(); <-done })
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// agent connects an agent that answers with h, until the test ends or the returned function is called.
func (r *replica) agent(maxStreams int, h tunnel.Handler, extensions ...string) func() {
	r.t.Helper()
	conn, err := grpc.NewClient(r.agents, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	p, err := tunnel.NewPool(tunnel.PoolConfig{
		Client: conn, Services: map[string]map[string]tunnel.Handler{testService: {echoMethod: h}}, Extensions: extensions,
		MaxStreams: maxStreams, DrainTimeout: time.Second, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	stop := r.run(p.Run)
	return func() {
		stop()
		_ = conn.Close()
	}
}

// echo sends back what it gets.
func echo(_ context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
	for {
		msg, err := s.Recv()
		if err != nil {
			return endOf(err)
		}
		if err := s.Send(msg); err != nil {
			return err
		}
	}
}

func request() Request { return Request{AgentID: agentID, Service: testService, Method: echoMethod} }

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return c
}

func text(s string) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer([]byte(s))} }

// open opens a call that must succeed.
func (r *replica) open(c context.Context) Call {
	r.t.Helper()
	call, err := r.router.Open(c, request())
	if err != nil {
		r.t.Fatal(err)
	}
	return call
}

// roundTrip sends a message and returns the answer.
func roundTrip(c Call, msg string) (string, error) {
	if err := c.Send(text(msg)); err != nil {
		return "", err
	}
	got, err := c.Recv()
	if err != nil {
		return "", err
	}
	defer got.Free()
	return string(got.Materialize()), nil
}

// whole is one call from its beginning to its end.
func (r *replica) whole() error {
	call, err := r.router.Open(ctx(r.t), request())
	if err != nil {
		return err
	}
	done := false
	defer func() { call.Finish(done) }()
	if _, err := roundTrip(call, "x"); err != nil {
		return err
	}
	if err := call.CloseSend(); err != nil {
		return err
	}
	_, err = call.Recv()
	done = endOf(err) == nil
	return endOf(err)
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}
