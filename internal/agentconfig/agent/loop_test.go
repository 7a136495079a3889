package agent

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/agentconfig"
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

func TestLoop_AppliesToAllModules(t *testing.T) {
	a, b := &module{name: "a"}, &module{name: "b"}
	inBubble(t, []turn{send(hold, config("c1"))}, []*module{a, b}, func(t *testing.T, f *fixture) {
		for _, m := range f.modules {
			if diff := cmp.Diff([]string{"c1"}, m.seen()); diff != "" {
				t.Errorf("%s: %s", m.name, diff)
			}
		}
		if !f.kas.last.SkipRegister || f.kas.last.AgentMeta.GetVersion() != "v1" {
			t.Errorf("asked with %v", f.kas.last)
		}
		f.wantValid(t, 1)
		f.wantEvents(t)
		if got := testutil.ToFloat64(f.loop.state.since); got != float64(time.Now().Unix()) {
			t.Errorf("applied at %v", got)
		}
	})
}

func TestLoop_OrderlyEndReconnectsAtOnceWithTheCommit(t *testing.T) {
	old := func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
		time.Sleep(30 * time.Minute)
		return nil
	}
	inBubble(t, []turn{send(old, config("c1"))}, nil, func(t *testing.T, f *fixture) {
		later(31 * time.Minute)
		f.wantAsked(t, "", "c1")
		if f.times()[1] != 30*time.Minute {
			t.Errorf("reconnected after %v", f.times()[1])
		}
	})
}

func TestLoop_EndAtOnceIsNoBusyLoop(t *testing.T) {
	inBubble(t, []turn{end(nil), end(nil), end(nil)}, nil, func(t *testing.T, f *fixture) {
		later(time.Minute)
		if diff := cmp.Diff([]time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}, f.times()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoop_FailuresBackOff(t *testing.T) {
	for _, code := range []codes.Code{
		codes.Unavailable, codes.Unauthenticated, codes.PermissionDenied, codes.NotFound, codes.Canceled, codes.DeadlineExceeded, codes.Unimplemented,
	} {
		t.Run(code.String(), func(t *testing.T) {
			fail := end(status.Error(code, "agent not found"))
			inBubble(t, []turn{fail, fail, fail}, nil, func(t *testing.T, f *fixture) {
				later(3 * time.Minute)
				if len(f.times()) != 4 {
					t.Fatalf("streams at %v, want four", f.times())
				}
				for i, least := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
					if gap := f.times()[i+1] - f.times()[i]; gap < least || gap >= 2*least {
						t.Errorf("gap %d is %v, want [%v, %v)", i, gap, least, 2*least)
					}
				}
				f.wantValid(t, 1) // not the user's configuration
				f.wantEvents(t)
			})
		})
	}
}

// TestLoop_RefusedByKas wants the last good configuration to stay, the reason to be seen, and a mended file to be found soon.
func TestLoop_RefusedByKas(t *testing.T) {
	tests := map[string]error{
		"file":   status.Error(codes.FailedPrecondition, "Config: config.yaml at commit c2: ci_acces (line 1): unknown key"),
		"branch": status.Error(codes.NotFound, "Config: repository poll failed: branch main does not exist"),
	}
	for name, refusal := range tests {
		t.Run(name, func(t *testing.T) {
			m := &module{name: "m"}
			turns := []turn{send(end(refusal), config("c1"))}
			for range 30 {
				turns = append(turns, end(refusal))
			}
			turns = append(turns, send(hold, config("c3")))
			inBubble(t, turns, []*module{m}, func(t *testing.T, f *fixture) {
				f.wantValid(t, 0)
				later(11 * time.Minute)
				for i := range f.times()[1:] {
					if gap := f.times()[i+1] - f.times()[i]; gap < 10*time.Second || gap >= 20*time.Second {
						t.Errorf("gap %d is %v, want it to stay in [10s, 20s)", i, gap)
					}
				}
				if diff := cmp.Diff([]string{"c1", "c3"}, m.seen()); diff != "" {
					t.Errorf("applied: %s", diff)
				}
				f.wantValid(t, 1)
				all := f.events.all()
				last := all[len(all)-1]
				if last.Reason != ReasonApplied || !strings.Contains(last.Message, "c3") {
					t.Errorf("last event %+v", last)
				}
				if first := all[0]; first.Reason != ReasonInvalid || first.Message != status.Convert(refusal).Message() {
					t.Errorf("first event %+v", first)
				}
				if n := f.logs.FilterMessageSnippet("refused").FilterLevelExact(zapcore.WarnLevel).Len(); n != 1 {
					t.Errorf("the refusal is in the log %d times, want once", n)
				}
			})
		})
	}
}

// TestLoop_UserGoesBack wants the gauge to recover when the branch is moved back to the commit in use, which kas does not send
// again.
func TestLoop_UserGoesBack(t *testing.T) {
	current := func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
		if err := s.SendHeader(metadata.Pairs(agentconfig.CurrentHeader, "c1")); err != nil {
			return err
		}
		return hold(s)
	}
	refusal := end(status.Error(codes.FailedPrecondition, "Config: no"))
	inBubble(t, []turn{send(refusal, config("c1")), current}, nil, func(t *testing.T, f *fixture) {
		f.wantValid(t, 0)
		later(time.Minute)
		f.wantAsked(t, "", "c1")
		f.wantValid(t, 1)
		f.wantEvents(t, ReasonInvalid, ReasonApplied)
	})
}

func TestLoop_ModuleRefuses(t *testing.T) {
	a, b := &module{name: "a"}, &module{name: "b", refuse: "c2"}
	inBubble(t, []turn{send(end(nil), config("c1"), config("c2"))}, []*module{a, b}, func(t *testing.T, f *fixture) {
		later(time.Minute)
		for _, m := range f.modules {
			if diff := cmp.Diff([]string{"c1"}, m.seen()); diff != "" {
				t.Errorf("%s: %s", m.name, diff)
			}
		}
		f.wantValid(t, 0)
		f.wantEvents(t, ReasonInvalid)
		if e := f.events.all()[0]; e.Message != "b: cannot do that" {
			t.Errorf("event %+v", e)
		}
		f.wantAsked(t, "", "c2") // only another commit can help
	})
}

func TestLoop_SlowModuleGetsTheNewestOnly(t *testing.T) {
	slow, fast := &module{name: "slow", takes: time.Minute}, &module{name: "fast"}
	step := func(resp *agentconfiguration.ConfigurationResponse, next turn) turn {
		return func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
			time.Sleep(time.Second)
			return send(next, resp)(s)
		}
	}
	turns := []turn{step(config("c1"), step(config("c2"), step(config("c3"), hold)))}
	inBubble(t, turns, []*module{slow, fast}, func(t *testing.T, f *fixture) {
		later(2 * time.Minute)
		if diff := cmp.Diff([]string{"c1", "c3"}, slow.seen()); diff != "" {
			t.Errorf("slow: %s", diff)
		}
		if diff := cmp.Diff([]string{"c1", "c2", "c3"}, fast.seen()); diff != "" {
			t.Errorf("fast: %s", diff)
		}
	})
}

func TestLoop_IdentityIsPinned(t *testing.T) {
	tests := map[string]struct {
		change func(c *agentcfg.AgentConfiguration)
		want   string
	}{
		"agent id": {func(c *agentcfg.AgentConfiguration) { c.AgentId = 8 }, "agent id changed from 7 to 8"},
		"URL":      {func(c *agentcfg.AgentConfiguration) { c.GitlabExternalUrl = "https://evil" }, "external URL"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := &module{name: "m"}
			turns := []turn{send(end(nil), config("c1"), config("c2", test.change)), send(hold, config("c3"))}
			inBubble(t, turns, []*module{m}, func(t *testing.T, f *fixture) {
				f.wantValid(t, 0)
				later(time.Minute)
				f.wantAsked(t, "", "c1") // the commit does not count as received
				if diff := cmp.Diff([]string{"c1", "c3"}, m.seen()); diff != "" {
					t.Error(diff)
				}
				if e := f.events.all()[0]; !strings.Contains(e.Message, test.want) {
					t.Errorf("event %+v", e)
				}
				f.wantValid(t, 1)
			})
		})
	}
}

func TestLoop_BadMessages(t *testing.T) {
	nobody := func(c *agentcfg.AgentConfiguration) { c.AgentId = 0 }
	tests := map[string]*agentconfiguration.ConfigurationResponse{
		"no commit":        {Configuration: config("").Configuration},
		"no configuration": {CommitId: "c1"},
		"no agent id":      config("c1", nobody),
		"nothing":          {},
	}
	for name, resp := range tests {
		t.Run(name, func(t *testing.T) {
			m := &module{name: "m"}
			inBubble(t, []turn{send(end(nil), resp), send(hold, config("c2"))}, []*module{m}, func(t *testing.T, f *fixture) {
				later(time.Minute)
				f.wantAsked(t, "", "")
				if diff := cmp.Diff([]string{"c2"}, m.seen()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestLoop_AgentID(t *testing.T) {
	wait := func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
		time.Sleep(time.Minute)
		return send(hold, config("c1"))(s)
	}
	inBubble(t, []turn{wait}, nil, func(t *testing.T, f *fixture) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.loop.AgentID(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before the first configuration: %v", err)
		}
		if id, err := f.loop.AgentID(t.Context()); id != 7 || err != nil {
			t.Errorf("agent id %d, %v", id, err)
		}
	})
}

func TestLoop_LevelsAndIgnoredKeys(t *testing.T) {
	grpcLevel := agentcfg.LogLevelEnum_warn
	set := func(c *agentcfg.AgentConfiguration) {
		c.Observability = &agentcfg.ObservabilityCF{Logging: &agentcfg.LoggingCF{Level: agentcfg.LogLevelEnum_debug, GrpcLevel: &grpcLevel}}
		c.Flux = &agentcfg.FluxCF{}
	}
	pause := func(next turn) turn {
		return func(s grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]) error {
			time.Sleep(time.Minute)
			return next(s)
		}
	}
	turns := []turn{send(pause(send(pause(send(hold, config("c3"))), config("c2", set))), config("c1", set))}
	inBubble(t, turns, nil, func(t *testing.T, f *fixture) {
		want := []zapcore.Level{zapcore.DebugLevel, zapcore.WarnLevel}
		if diff := cmp.Diff(want, f.levels.get()); diff != "" {
			t.Errorf("levels: %s", diff)
		}
		later(3 * time.Minute)
		if diff := cmp.Diff([]zapcore.Level{zapcore.InfoLevel, zapcore.ErrorLevel}, f.levels.get()); diff != "" {
			t.Errorf("levels without the section: %s", diff)
		}
		ignored := f.logs.FilterMessageSnippet("not supported yet, ignored").All()
		if len(ignored) != 1 || ignored[0].ContextMap()["key"] != "flux" {
			t.Errorf("ignored keys in the log: %v", ignored)
		}
	})
}

func TestNew_Incomplete(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("accepted")
	}
}
