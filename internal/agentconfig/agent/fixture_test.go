package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/entity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// turn is what the server does with one stream.
type turn func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error

// kas plays a script of turns, then holds streams open. It notes what each was asked for and when.
type kas struct {
	agentconfiguration.UnimplementedAgentConfigurationServer

	start time.Time
	mu    sync.Mutex // guards all below
	turns []turn
	asked []string // commit ids
	at    []time.Duration
	last  *agentconfiguration.ConfigurationRequest
}

func (k *kas) GetConfiguration(
	req *agentconfiguration.ConfigurationRequest,
	s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse],
) error {
	k.mu.Lock()
	k.asked = append(k.asked, req.CommitId)
	k.at = append(k.at, time.Since(k.start))
	k.last = req
	play := hold
	if len(k.turns) > 0 {
		play = k.turns[0]
		k.turns = k.turns[1:]
	}
	k.mu.Unlock()
	return play(s)
}

func hold(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
	<-s.Context().Done()
	return nil
}

func end(err error) turn {
	return func(grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error { return err }
}

// send sends configurations, one per commit, and goes on with next.
func send(next turn, all ...*agentconfiguration.ConfigurationResponse) turn {
	return func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
		for _, resp := range all {
			if err := s.Send(resp); err != nil {
				return err
			}
		}
		return next(s)
	}
}

func config(commit string, change ...func(c *agentcfg.AgentConfiguration)) *agentconfiguration.ConfigurationResponse {
	c := &agentcfg.AgentConfiguration{AgentId: 7, ProjectPath: commit, GitlabExternalUrl: "https://gitlab.example.com"}
	for _, f := range change {
		f(c)
	}
	return &agentconfiguration.ConfigurationResponse{CommitId: commit, Configuration: c}
}

// module notes the project paths of what it is given, which the tests use as a mark.
type module struct {
	name   string
	refuse string
	takes  time.Duration

	mu      sync.Mutex // guards applied
	applied []string
}

func (m *module) seen() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.applied)
}

func (m *module) Name() string { return m.name }

func (m *module) Validate(cfg *agentcfg.AgentConfiguration) error {
	if m.refuse != "" && cfg.ProjectPath == m.refuse {
		return errors.New("cannot do that")
	}
	return nil
}

func (m *module) Apply(ctx context.Context, cfg *agentcfg.AgentConfiguration) {
	m.mu.Lock()
	m.applied = append(m.applied, cfg.ProjectPath)
	m.mu.Unlock()
	select {
	case <-time.After(m.takes):
	case <-ctx.Done():
	}
}

type eventLog struct {
	mu     sync.Mutex // guards events
	events []Event
}

func (l *eventLog) Emit(_ context.Context, e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) all() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// levelLog keeps the newest levels.
type levelLog struct {
	mu     sync.Mutex // guards newest
	newest []zapcore.Level
}

func (l *levelLog) set(level, grpcLevel zapcore.Level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = []zapcore.Level{level, grpcLevel}
}

func (l *levelLog) get() []zapcore.Level {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// fixture is a Loop at the other end of a real gRPC connection, inside a synctest bubble.
type fixture struct {
	kas     *kas
	modules []*module
	events  *eventLog
	logs    *observer.ObservedLogs
	levels  levelLog
	loop    *Loop
}

func inBubble(t *testing.T, turns []turn, modules []*module, test func(t *testing.T, f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{kas: &kas{start: time.Now(), turns: turns}, modules: modules, events: &eventLog{}}
		listener := bufconn.Listen(1 << 16)
		server := grpc.NewServer()
		agentconfiguration.RegisterAgentConfigurationServer(server, f.kas)
		conn, err := grpc.NewClient("passthrough:///kas",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		core, logs := observer.New(zapcore.DebugLevel)
		f.logs = logs
		cfg := Config{
			Client:     agentconfiguration.NewAgentConfigurationClient(conn),
			Meta:       func(context.Context) *entity.AgentMeta { return &entity.AgentMeta{Version: "v1"} },
			SetLevels:  f.levels.set,
			Events:     f.events,
			Log:        zap.New(core),
			Registerer: prometheus.NewPedanticRegistry(),
		}
		for _, m := range modules {
			cfg.Modules = append(cfg.Modules, m)
		}
		f.loop, err = New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = server.Serve(listener) })
		running.Go(func() {
			if err := f.loop.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		synctest.Wait()
		test(t, f)
		cancel()
		_ = conn.Close()
		server.Stop()
		running.Wait()
	})
}

// times are when streams were opened.
func (f *fixture) times() []time.Duration {
	f.kas.mu.Lock()
	defer f.kas.mu.Unlock()
	return slices.Clone(f.kas.at)
}

func (f *fixture) wantAsked(t *testing.T, commits ...string) {
	t.Helper()
	f.kas.mu.Lock()
	defer f.kas.mu.Unlock()
	if diff := cmp.Diff(commits, f.kas.asked); diff != "" {
		t.Errorf("streams were asked for %s", diff)
	}
}

func (f *fixture) wantValid(t *testing.T, want float64) {
	t.Helper()
	if got := testutil.ToFloat64(f.loop.state.ok); got != want {
		t.Errorf("agentk_config_valid is %v, want %v", got, want)
	}
}

func (f *fixture) wantEvents(t *testing.T, reasons ...string) {
	t.Helper()
	var got []string
	for _, e := range f.events.all() {
		got = append(got, e.Reason)
		if e.Warning != (e.Reason == ReasonInvalid) {
			t.Errorf("event %+v has the wrong type", e)
		}
	}
	if diff := cmp.Diff(reasons, got); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

func later(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
