package server

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/agentconfig"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const ciAccess = "ci_access:\n  projects:\n  - id: group/app\nuser_access:\n  projects:\n  - id: group/app\n"

func TestConfiguration_FirstAndNext(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", ciAccess)
		s := f.open(t, modern)
		r := s.wantCommit(t, "c1")
		want := &agentcfg.AgentConfiguration{
			CiAccess: &agentcfg.CiAccessCF{Projects: []*agentcfg.CiAccessProjectCF{{Id: "group/app"}}},
			AgentId:  7, ProjectId: 9, ProjectPath: "group/agents", GitlabExternalUrl: "https://gitlab.example.com",
		}
		if diff := cmp.Diff(want, r.resp.Configuration, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if r.at != 0 {
			t.Errorf("the first came after %v", r.at)
		}
		s.silent(t, 3*pollPeriod-time.Second) // the same commit is not sent again
		f.commit("c2", "")
		if r := s.wantCommit(t, "c2"); r.at != 3*pollPeriod {
			t.Errorf("found after %v, want the next poll at %v", r.at, 3*pollPeriod)
		}
		f.wantResults(t, 2, 0, 0)
	})
}

func TestConfiguration_MissingFileIsEmpty(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.set(func(w *world) { w.head = "c1" })
		r := f.open(t, modern).wantCommit(t, "c1")
		want := &agentcfg.AgentConfiguration{
			AgentId: 7, ProjectId: 9, ProjectPath: "group/agents", GitlabExternalUrl: "https://gitlab.example.com",
		}
		if diff := cmp.Diff(want, r.resp.Configuration, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestConfiguration_EmptyRepositoryWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		s := f.open(t, modern)
		s.silent(t, 2*pollPeriod+time.Second)
		f.commit("c1", "")
		if r := s.wantCommit(t, "c1"); r.at != 3*pollPeriod {
			t.Errorf("sent after %v", r.at)
		}
		f.wantResults(t, 1, 0, 0)
	})
}

func TestConfiguration_ResumeAtTheNewestCommit(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, &agentconfiguration.ConfigurationRequest{CommitId: "c1", SkipRegister: true})
		s.silent(t, pollPeriod+time.Second)
		header, err := s.Header()
		if err != nil || len(header.Get(agentconfig.CurrentHeader)) != 1 || header.Get(agentconfig.CurrentHeader)[0] != "c1" {
			t.Errorf("header %v %v does not confirm the commit", header, err)
		}
		f.commit("c2", "")
		s.wantCommit(t, "c2")
		f.wantResults(t, 1, 0, 0)
	})
}

func TestConfiguration_PushWakes(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		f.commit("c2", "")
		for _, other := range []string{"group/other", "group", "group/agents/sub"} {
			_ = f.store.Publish(t.Context(), other)
		}
		s.silent(t, time.Minute)
		_ = f.store.Publish(t.Context(), "group/agents")
		if r := s.wantCommit(t, "c2"); r.at != time.Minute {
			t.Errorf("sent %v after the push", r.at-time.Minute)
		}
	})
}

func TestConfiguration_RenamedProjectIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		f.set(func(w *world) { w.agent.Project.Path = "group/renamed" })
		s.silent(t, pollPeriod+time.Second)
		f.commit("c2", "")
		_ = f.store.Publish(t.Context(), "group/agents")
		s.silent(t, time.Minute)
		_ = f.store.Publish(t.Context(), "group/renamed")
		s.wantCommit(t, "c2")
	})
}

func TestConfiguration_BackendChangeWakes(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		s.silent(t, time.Second)
		f.commit("c2", "")
		f.announce()
		if r := s.wantCommit(t, "c2"); r.at > time.Second+settle {
			t.Errorf("sent %v after the change", r.at-time.Second)
		}
	})
}

// lostPushes is a subscription that ends now and then.
type lostPushes struct {
	mu         sync.Mutex // guards all below
	subscribed int
	current    chan string
}

// lose ends the subscription.
func (p *lostPushes) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.current)
}

func (p *lostPushes) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.subscribed
}

func (p *lostPushes) Subscribe(ctx context.Context) (<-chan string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subscribed++
	if p.subscribed == 2 {
		return nil, fault.New(fault.Unavailable, fault.Kas, "no store")
	}
	ch := make(chan string)
	p.current = ch
	if p.subscribed > 2 {
		context.AfterFunc(ctx, func() { close(ch) })
	}
	return ch, nil
}

func TestConfiguration_LostSubscriptionLooksAnew(t *testing.T) {
	pushes := &lostPushes{}
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		f.commit("c2", "")
		pushes.lose()
		if r := s.wantCommit(t, "c2"); r.at > time.Second {
			t.Errorf("sent %v after the subscription was lost", r.at)
		}
		if n := pushes.count(); n != 3 {
			t.Errorf("subscribed %d times, want 3", n)
		}
	}, func(f *fixture) { f.pushes = pushes })
}

// TestConfiguration_Rejected wants what only the user can mend to end the stream, and to be told with place and line.
func TestConfiguration_Rejected(t *testing.T) {
	git := func(kind fault.Kind, msg string) error { return fault.New(kind, fault.Git, "%s", msg) }
	tests := []struct {
		name   string
		change func(w *world)
		code   codes.Code
		want   []string
	}{
		{
			"unknown key", func(w *world) { w.files["0123456789"+demoPath] = "ci_access:\n  proyects: []\n" },
			codes.FailedPrecondition,
			[]string{demoPath, "commit 01234567:", "ci_access.proyects", "line 2"},
		},
		{
			"broken rule", func(w *world) { w.files["0123456789"+demoPath] = "ci_access:\n  projects:\n  - default_namespace: a\n" },
			codes.FailedPrecondition,
			[]string{"ci_access.projects[0].id", "line 3"},
		},
		{
			"not YAML", func(w *world) { w.files["0123456789"+demoPath] = "a: [" },
			codes.FailedPrecondition,
			[]string{demoPath, "line"},
		},
		{
			"too large", func(w *world) { w.files["0123456789"+demoPath] = strings.Repeat("#", maxSize+1) },
			codes.FailedPrecondition,
			[]string{demoPath, "larger than 1000 bytes"},
		},
		{
			"a symbolic link", func(w *world) { w.fileErr = git(fault.FailedPrecondition, "not a regular file") },
			codes.FailedPrecondition,
			[]string{demoPath, "not a regular file"},
		},
		{
			"a name that is a path", func(w *world) { w.agent.Name = "../../etc" },
			codes.FailedPrecondition,
			[]string{"not an agent name"},
		},
		{
			"no branch", func(w *world) { w.headErr = git(fault.NotFound, "branch main does not exist") },
			codes.NotFound,
			[]string{"repository poll failed: ", "group/agents", "branch main does not exist"},
		},
		{
			"no repository", func(w *world) { w.headErr = git(fault.NotFound, "repository does not exist") },
			codes.NotFound,
			[]string{"repository poll failed: ", "group/agents", "repository does not exist"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fixture) {
				f.commit("0123456789", "")
				f.set(test.change)
				for range 2 { // the agent asks again
					st := f.open(t, modern).wantStatus(t, test.code)
					for _, want := range append(test.want, "Config: ") {
						if !strings.Contains(st.Message(), want) {
							t.Errorf("%q does not say %q", st.Message(), want)
						}
					}
					if !strings.HasPrefix(st.Message(), "Config: ") {
						t.Errorf("%q does not begin with what it is about", st.Message())
					}
				}
				f.wantResults(t, 0, 2, 0)
				if n := f.logs.FilterMessage("Configuration rejected").Len(); n != 1 {
					t.Errorf("%d lines in the log, want 1", n)
				}
			})
		})
	}
}

func TestConfiguration_LongComplaintIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.set(func(w *world) {
			w.head = "c1"
			w.fileErr = fault.New(fault.FailedPrecondition, fault.Git, "%s", strings.Repeat("ä", 5000))
		})
		st := f.open(t, modern).wantStatus(t, codes.FailedPrecondition)
		if len(st.Message()) > maxStatus+len("…") || !strings.HasSuffix(st.Message(), "…") {
			t.Errorf("the status has %d bytes", len(st.Message()))
		}
	})
}

func TestConfiguration_RejectedWhileConnected(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		f.commit("c2", "nonsense: 1")
		_ = f.store.Publish(t.Context(), "group/agents")
		s.wantStatus(t, codes.FailedPrecondition)
		f.commit("c3", "")
		again := f.open(t, &agentconfiguration.ConfigurationRequest{CommitId: "c1", SkipRegister: true})
		again.wantCommit(t, "c3")
	})
}

func TestConfiguration_TokenIsRefused(t *testing.T) {
	tests := map[fault.Kind]codes.Code{
		fault.Unauthenticated:  codes.Unauthenticated,
		fault.PermissionDenied: codes.PermissionDenied,
		fault.NotFound:         codes.NotFound,
	}
	for kind, code := range tests {
		t.Run(code.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fixture) {
				f.commit("c1", "")
				f.set(func(w *world) { w.authErr = fault.New(kind, fault.GitLab, "no") })
				if st := f.open(t, modern).wantStatus(t, code); st.Message() != "no" {
					t.Errorf("message %q", st.Message())
				}
				f.wantResults(t, 0, 0, 0)
			})
		})
	}
}

func TestConfiguration_TokenIsRevokedWhileConnected(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		a, b := f.open(t, modern), f.open(t, modern)
		a.wantCommit(t, "c1")
		b.wantCommit(t, "c1")
		f.set(func(w *world) { w.authErr = fault.New(fault.Unauthenticated, fault.GitLab, "unauthenticated") })
		a.silent(t, time.Second)
		f.announce()
		a.wantStatus(t, codes.Unauthenticated)
		b.wantStatus(t, codes.Unauthenticated)
	})
}

// TestConfiguration_TroubleIsRetriedInside wants outages of others to stay unnoticed.
func TestConfiguration_TroubleIsRetriedInside(t *testing.T) {
	down := fault.New(fault.Unavailable, fault.Git, "unavailable")
	tests := map[string]func(w *world, err error){
		"token":  func(w *world, err error) { w.authErr = err },
		"branch": func(w *world, err error) { w.headErr = err },
		"file":   func(w *world, err error) { w.fileErr = err },
	}
	for name, fail := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fixture) {
				f.commit("c1", "")
				f.set(func(w *world) { fail(w, down) })
				s := f.open(t, modern)
				s.silent(t, 10*time.Minute)
				f.set(func(w *world) {
					// 10-20 s, 20-40 s, 40-80 s, then each 60-120 s
					if w.checks < 7 || w.checks > 13 {
						t.Errorf("%d attempts in ten minutes", w.checks)
					}
					fail(w, nil)
				})
				if r := s.wantCommit(t, "c1"); r.at > 12*time.Minute {
					t.Errorf("noticed after %v", r.at)
				}
			})
		})
	}
}

func TestConfiguration_PushCutsTheBackOff(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		synctest.Wait() // kas listens to pushes
		f.set(func(w *world) { w.headErr = fault.New(fault.Unavailable, fault.Git, "unavailable") })
		_ = f.store.Publish(t.Context(), "group/agents")
		s.silent(t, time.Second)
		f.set(func(w *world) { w.headErr = nil })
		f.commit("c2", "")
		_ = f.store.Publish(t.Context(), "group/agents")
		if r := s.wantCommit(t, "c2"); r.at != time.Second {
			t.Errorf("sent after %v", r.at)
		}
		f.wantResults(t, 2, 0, 1)
	})
}

func TestConfiguration_AgeLimitEndsInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", "")
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		if r := s.next(t); r.err != io.EOF || r.at != 36*time.Minute {
			t.Errorf("got %v after %v, want the end after 36m", r.err, r.at)
		}
	}, func(f *fixture) { f.age = 36 * time.Minute })
}

func TestConfiguration_AgeLimitEndsARetry(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fixture) {
		f.set(func(w *world) { w.authErr = fault.New(fault.Unavailable, fault.GitLab, "unavailable") })
		if r := f.open(t, modern).next(t); r.err != io.EOF || r.at != time.Minute {
			t.Errorf("got %v after %v", r.err, r.at)
		}
	}, func(f *fixture) { f.age = time.Minute })
}

func TestConfiguration_HookIsToldWhatIsSent(t *testing.T) {
	type call struct {
		agent int64
		keys  bool
	}
	calls := make(chan call, 10)
	inBubble(t, func(t *testing.T, f *fixture) {
		f.commit("c1", ciAccess)
		s := f.open(t, modern)
		s.wantCommit(t, "c1")
		f.commit("c2", "nonsense: 1")
		_ = f.store.Publish(t.Context(), "group/agents")
		if r := s.next(t); status.Code(r.err) != codes.FailedPrecondition || r.at != farewell { // the stream's end waits for the slow hook
			t.Errorf("ended with %v after %v, want %v", r.err, r.at, farewell)
		}
		if len(calls) != 1 {
			t.Fatalf("%d calls, want 1", len(calls))
		}
		if c := <-calls; c.agent != 7 || !c.keys {
			t.Errorf("told %+v", c)
		}
	}, func(f *fixture) {
		f.hook = func(ctx context.Context, agent backend.Agent, file *agentcfg.ConfigurationFile) {
			<-ctx.Done() // as slow as it may be
			calls <- call{agent: agent.ID, keys: file.UserAccess != nil}
		}
	})
}

// TestRegistration_OldAgents wants agents to be registered by their stream only if they have no other way.
func TestRegistration_OldAgents(t *testing.T) {
	meta := &entity.AgentMeta{Version: "v16.4.0"}
	tests := []struct {
		name string
		req  *agentconfiguration.ConfigurationRequest
		want int
	}{
		{"before 16.5", &agentconfiguration.ConfigurationRequest{AgentMeta: meta}, 1},
		{"from 16.5", &agentconfiguration.ConfigurationRequest{AgentMeta: meta, SkipRegister: true}, 0},
		{"from 18.5", &agentconfiguration.ConfigurationRequest{}, 0},
		{"too large", &agentconfiguration.ConfigurationRequest{AgentMeta: &entity.AgentMeta{Version: strings.Repeat("x", maxMeta)}}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fixture) {
				f.commit("c1", "")
				s := f.open(t, test.req)
				s.wantCommit(t, "c1")
				for range 3 {
					list, err := f.store.AgentsByID(t.Context(), 7)
					if err != nil || len(list) != test.want {
						t.Fatalf("registered %v %v, want %d", list, err, test.want)
					}
					s.silent(t, registrationTTL)
				}
				s.cancel()
				synctest.Wait()
				if list, err := f.store.AgentsByID(t.Context(), 7); err != nil || len(list) != 0 {
					t.Errorf("after the stream: %v %v", list, err)
				}
			})
		})
	}
}

func TestNew_Incomplete(t *testing.T) {
	w := &world{}
	full := Config{
		Auth: w, AgeLimit: func(ctx context.Context) context.Context { return ctx }, Repository: w, Pushes: &lostPushes{},
		Registry: &registryStub{}, PollPeriod: time.Minute, MaxFileSize: 1, Log: zap.NewNop(),
	}
	if _, err := New(full); err != nil {
		t.Fatalf("complete, but %v", err)
	}
	for name, spoil := range map[string]func(c *Config){
		"auth":       func(c *Config) { c.Auth = nil },
		"age":        func(c *Config) { c.AgeLimit = nil },
		"repository": func(c *Config) { c.Repository = nil },
		"pushes":     func(c *Config) { c.Pushes = nil },
		"registry":   func(c *Config) { c.Registry = nil },
		"log":        func(c *Config) { c.Log = nil },
		"period":     func(c *Config) { c.PollPeriod = 0 },
		"size":       func(c *Config) { c.MaxFileSize = 0 },
	} {
		cfg := full
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("accepted without %s", name)
		}
	}
}

type registryStub struct{ Registry }
