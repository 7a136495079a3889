package server

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	pollPeriod = 5 * time.Minute
	maxSize    = 1000
	demoPath   = ".gitlab/agents/demo/config.yaml"
)

// world is everything outside the server: one agent, one repository. All its fields are guarded by mu.
type world struct {
	mu      sync.Mutex
	agent   backend.Agent
	authErr error
	head    string
	headErr error
	files   map[string]string // commit and path
	fileErr error
	checks  int
	changed chan struct{}
}

func (w *world) Agent(context.Context) (backend.Agent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checks++
	return w.agent, w.authErr
}

func (w *world) Head(context.Context, backend.Project) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head, w.headErr
}

func (w *world) File(_ context.Context, _ backend.Project, commit, path string, limit int64) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fileErr != nil {
		return nil, w.fileErr
	}
	data, ok := w.files[commit+path]
	if !ok {
		return nil, fault.New(fault.NotFound, fault.Git, "no such file")
	}
	if int64(len(data)) > limit {
		return nil, fault.New(fault.FailedPrecondition, fault.Git, "larger than %d bytes", limit)
	}
	return []byte(data), nil
}

func (w *world) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// set changes the world and tells nobody.
func (w *world) set(change func(w *world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// announce tells that something has changed.
func (w *world) announce() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) commit(id, yaml string) {
	w.set(func(w *world) {
		w.head = id
		w.files[id+demoPath] = yaml
	})
}

// fixture is a Server behind a real gRPC connection, inside a synctest bubble.
type fixture struct {
	*world
	store   *store.Memory
	pushes  Pushes
	metrics *prometheus.Registry
	logs    *observer.ObservedLogs
	age     time.Duration
	hook    func(ctx context.Context, agent backend.Agent, file *agentcfg.ConfigurationFile)
	client  agentconfiguration.AgentConfigurationClient
	server  *Server
}

// inBubble runs a test on a clock of its own. Options change the fixture before its server starts.
func inBubble(t *testing.T, test func(t *testing.T, f *fixture), options ...func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory(store.MemoryConfig{})
		f := &fixture{
			world: &world{
				agent:   backend.Agent{ID: 7, Name: "demo", Project: backend.Project{ID: 9, Path: "group/agents", DefaultBranch: "main"}},
				files:   map[string]string{},
				changed: make(chan struct{}),
			},
			store:   memory,
			pushes:  memory,
			metrics: prometheus.NewPedanticRegistry(),
			age:     24 * time.Hour,
		}
		for _, option := range options {
			option(f)
		}
		defer f.start(t)()
		test(t, f)
	})
}

func (f *fixture) start(t *testing.T) (stop func()) {
	core, logs := observer.New(zapcore.InfoLevel)
	f.logs = logs
	var err error
	f.server, err = New(Config{
		Auth: f.world,
		AgeLimit: func(ctx context.Context) context.Context {
			ctx, cancel := context.WithTimeout(ctx, f.age)
			context.AfterFunc(ctx, cancel)
			return ctx
		},
		Repository: f.world, Pushes: f.pushes, Changes: f.world, Registry: f.store,
		ExternalURL: "https://gitlab.example.com", PollPeriod: pollPeriod, MaxFileSize: maxSize,
		OnConfiguration: f.hook, Log: zap.New(core), Registerer: f.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	agentconfiguration.RegisterAgentConfigurationServer(server, f.server)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	running.Go(func() { _ = f.server.Run(ctx) })
	conn, err := grpc.NewClient("passthrough:///kas",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	f.client = agentconfiguration.NewAgentConfigurationClient(conn)
	return func() {
		_ = conn.Close()
		server.Stop()
		cancel()
		running.Wait()
	}
}

// received is what came on a stream, and after how long.
type received struct {
	resp *agentconfiguration.ConfigurationResponse
	err  error
	at   time.Duration
}

// stream is an open call whose messages wait in a channel.
type stream struct {
	grpc.ServerStreamingClient[agentconfiguration.ConfigurationResponse]
	all    chan received
	cancel context.CancelFunc
}

func (f *fixture) open(t *testing.T, req *agentconfiguration.ConfigurationRequest) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	start := time.Now()
	call, err := f.client.GetConfiguration(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{ServerStreamingClient: call, all: make(chan received, 100), cancel: cancel}
	go func() {
		for {
			resp, err := call.Recv()
			s.all <- received{resp: resp, err: err, at: time.Since(start)}
			if err != nil {
				return
			}
		}
	}()
	return s
}

// next waits on the bubble's clock, for an hour at most.
func (s *stream) next(t *testing.T) received {
	t.Helper()
	select {
	case r := <-s.all:
		return r
	case <-time.After(time.Hour):
		t.Fatal("nothing came within an hour")
		return received{}
	}
}

func (s *stream) wantCommit(t *testing.T, commit string) received {
	t.Helper()
	r := s.next(t)
	if r.err != nil || r.resp.CommitId != commit {
		t.Fatalf("received %v %v, want commit %q", r.resp, r.err, commit)
	}
	return r
}

func (s *stream) wantStatus(t *testing.T, code codes.Code) *status.Status {
	t.Helper()
	r := s.next(t)
	if r.err == nil || status.Code(r.err) != code {
		t.Fatalf("received %v %v, want %v", r.resp, r.err, code)
	}
	return status.Convert(r.err)
}

// silent waits d and wants nothing to come.
func (s *stream) silent(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case r := <-s.all:
		t.Fatalf("received %v %v after %v, want nothing", r.resp, r.err, r.at)
	case <-time.After(d):
	}
}

func (f *fixture) wantResults(t *testing.T, sent, rejected, failed float64) {
	t.Helper()
	synctest.Wait() // a message is counted after it was sent
	for result, want := range map[string]float64{resultSent: sent, resultRejected: rejected, resultError: failed} {
		if got := testutil.ToFloat64(f.server.results.WithLabelValues(result)); got != want {
			t.Errorf("kas_config_pushes_total{result=%q} is %v, want %v", result, got, want)
		}
	}
}

var modern = &agentconfiguration.ConfigurationRequest{SkipRegister: true}
