package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/internal/agentconfig"
)

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

// Servers of before and after an upgrade may serve the same agent: one does not tell the URL.
func TestLoop_ExternalURLMayBeToldLater(t *testing.T) {
	url := func(url string) func(c *agentcfg.AgentConfiguration) {
		return func(c *agentcfg.AgentConfiguration) { c.GitlabExternalUrl = url }
	}
	m := &module{name: "m"}
	turns := []turn{
		send(end(nil), config("c1", url("")), config("c2")), send(end(nil), config("c3", url(""))), send(hold, config("c4"), config("c5", url("https://evil"))),
	}
	inBubble(t, turns, []*module{m}, func(t *testing.T, f *fixture) {
		later(time.Minute)
		if seen := m.seen(); seen[len(seen)-1] != "c4" {
			t.Errorf("seen %v", seen)
		}
		f.wantValid(t, 0)
		f.wantAsked(t, "", "c2", "c3")
		if events := f.events.all(); len(events) != 1 || !strings.Contains(events[0].Message, "external URL") {
			t.Errorf("events %+v", events)
		}
	})
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
