package usage

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type report struct {
	Counters map[string]int64
	Unique   map[string][]int64
}

// gitLab takes reports, or does not.
type gitLab struct {
	mu      sync.Mutex
	err     error
	during  func() // runs while a report is under way
	hang    bool
	reports []report
	events  []string // JSON
}

func (g *gitLab) answer(ctx context.Context) error {
	g.mu.Lock()
	during, hang, err := g.during, g.hang, g.err
	g.during = nil
	g.mu.Unlock()
	if during != nil {
		during()
	}
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (g *gitLab) PostUsage(ctx context.Context, counters map[string]int64, unique map[string][]int64) error {
	err := g.answer(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		g.reports = append(g.reports, report{counters, unique})
	}
	return err
}

func (g *gitLab) PostEvents(ctx context.Context, events any) error {
	err := g.answer(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		raw, _ := json.Marshal(events)
		g.events = append(g.events, string(raw))
	}
	return err
}

func (g *gitLab) set(err error, hang bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.hang = err, hang
}

func (g *gitLab) whileReporting(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.during = do
}

func newTracker(t *testing.T, g *gitLab, adjust func(*Config)) *Tracker {
	t.Helper()
	cfg := Config{Reporter: g, UsagePeriod: time.Minute, EventPeriod: time.Minute, Log: zap.NewNop()}
	if adjust != nil {
		adjust(&cfg)
	}
	tracker, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tracker
}

// strict refuses, as GitLab does, a report with a name that it does not know.
type strict struct {
	*gitLab
	unknown string
	refused int
}

func (s *strict) PostUsage(ctx context.Context, counters map[string]int64, unique map[string][]int64) error {
	if counters[s.unknown] > 0 || len(unique[s.unknown]) > 0 {
		s.refused++
		return fault.New(fault.Internal, fault.GitLab, "HTTP status code: 400")
	}
	return s.gitLab.PostUsage(ctx, counters, unique)
}

func TestGitopsSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{}
		tracker := newTracker(t, g, nil)
		defer run(tracker)()
		tracker.GitopsSynced()
		tracker.GitopsSynced()
		minute()
		want := []report{{Counters: map[string]int64{"gitops_sync": 2}, Unique: map[string][]int64{}}}
		if diff := cmp.Diff(want, g.reports); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		(*Tracker)(nil).GitopsSynced()
	})
}

// TestGitopsSyncs_NewerGitLab: from 17.0 on GitLab refuses the name, and would refuse all other counters with it.
func TestGitopsSyncs_NewerGitLab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &strict{gitLab: &gitLab{}, unknown: "gitops_sync"}
		tracker := newTracker(t, g.gitLab, func(c *Config) { c.Reporter = g })
		defer run(tracker)()
		for range 3 {
			tracker.GitopsSynced()
			tracker.FluxNotified(9)
			minute()
		}
		if g.refused != 1 || len(g.reports) != 3 {
			t.Errorf("%d refused, %d reports", g.refused, len(g.reports))
		}
		for _, r := range g.reports {
			if diff := cmp.Diff(map[string]int64{fluxNotifications: 1}, r.Counters); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		}
		// An outage is not a refusal.
		g.set(fault.New(fault.Unavailable, fault.GitLab, "not now"), false)
		tracker.FluxNotified(9)
		minute()
		g.set(nil, false)
		minute()
		if len(g.reports) != 4 {
			t.Errorf("%d reports", len(g.reports))
		}
	})
}

// An old GitLab counts the users of all ways of access under one more name; others are not told, and 17.0 and 17.1 refuse it.
func TestOldGitLab_UsersOfTheTunnel(t *testing.T) {
	const name = "agent_users_using_ci_tunnel"
	for _, tt := range []struct {
		what    string
		old     bool
		unknown string
		want    []int64
		refused int
	}{
		{"16.x", true, "", []int64{5, 6}, 0},
		{"17.0", true, name, nil, 1},
		{"17.2", false, name, nil, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &strict{gitLab: &gitLab{}, unknown: tt.unknown}
				tracker := newTracker(t, g.gitLab, func(c *Config) { c.Reporter, c.Old = g, func() bool { return tt.old } })
				defer run(tracker)()
				for range 2 {
					tracker.ProxyRequest(PAT, 5, 7, 10)
					tracker.ProxyRequest(CI, 6, 7, 10)
					tracker.ProxyRequest(CI, 0, 7, 10)
					minute()
				}
				if len(g.reports) != 2 || g.refused != tt.refused {
					t.Fatalf("%d reports, %d refused", len(g.reports), g.refused)
				}
				for _, r := range g.reports {
					if diff := cmp.Diff(tt.want, r.Unique[name]); diff != "" || r.Counters[allRequests] != 3 || len(r.Unique[names[CI].users]) != 1 {
						t.Errorf("%v (-want +got)\n%s", r, diff)
					}
				}
			})
		})
	}
}

// An answer that comes as late as it may still counts.
func TestUsage_LastReportMayTakeFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{during: func() { time.Sleep(4900 * time.Millisecond) }}
		r := &timely{gitLab: g}
		tracker := newTracker(t, g, func(c *Config) { c.Reporter, c.EventPeriod = r, 0 })
		stop := run(tracker)
		tracker.FluxNotified(9)
		stop()
		g.wantReports(t, report{Counters: map[string]int64{fluxNotifications: 1}, Unique: map[string][]int64{fluxProjects: {9}}})
	})
}

// timely takes no report whose time is over.
type timely struct{ *gitLab }

func (g *timely) PostUsage(ctx context.Context, counters map[string]int64, unique map[string][]int64) error {
	if err := g.answer(ctx); err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	return g.gitLab.PostUsage(ctx, counters, unique)
}

// run runs tracker in a synctest bubble; stop ends it and waits.
func run(tracker *Tracker) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = tracker.Run(ctx) }()
	return func() { cancel(); <-done }
}

// minute lets the next report happen.
func minute() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

func (g *gitLab) wantReports(t *testing.T, want ...report) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if diff := cmp.Diff(want, g.reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

func (g *gitLab) wantEvents(t *testing.T, want ...string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if diff := cmp.Diff(want, g.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestUsage_NamesAndPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{}
		tracker := newTracker(t, g, func(c *Config) { c.EventPeriod = 0 })
		defer run(tracker)()
		minute()
		g.wantReports(t) // nothing to say
		tracker.ProxyRequest(CI, 5, 7, 10)
		tracker.ProxyRequest(CI, 5, 8, 10)
		tracker.ProxyRequest(User, 6, 7, 10)
		tracker.ProxyRequest(PAT, 0, 7, 10) // nobody
		tracker.ProxyRequest("made-up", 9, 9, 9)
		tracker.FluxNotified(10)
		minute()
		want := report{
			Counters: map[string]int64{
				"k8s_api_proxy_request": 4, "k8s_api_proxy_requests_via_ci_access": 2, "k8s_api_proxy_requests_via_user_access": 1,
				"k8s_api_proxy_requests_via_pat_access": 1, "flux_git_push_notifications_total": 1,
			},
			Unique: map[string][]int64{
				"k8s_api_proxy_requests_unique_users_via_ci_access":    {5},
				"k8s_api_proxy_requests_unique_users_via_user_access":  {6},
				"k8s_api_proxy_requests_unique_agents_via_ci_access":   {7, 8},
				"k8s_api_proxy_requests_unique_agents_via_user_access": {7},
				"k8s_api_proxy_requests_unique_agents_via_pat_access":  {7},
				"flux_git_push_notified_unique_projects":               {10},
			},
		}
		g.wantReports(t, want)
		minute()
		g.wantReports(t, want) // acknowledged is over
		g.wantEvents(t)
	})
}

func TestUsage_OnlyWhatWasTakenIsSubtracted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{err: errors.New("502")}
		tracker := newTracker(t, g, func(c *Config) { c.EventPeriod = 0 })
		defer run(tracker)()
		tracker.ProxyRequest(CI, 5, 7, 10)
		// What happens while a report is under way is not part of it, whatever becomes of it.
		g.whileReporting(func() { tracker.ProxyRequest(CI, 6, 7, 10) })
		minute()
		g.wantReports(t)
		g.set(nil, false)
		g.whileReporting(func() { tracker.ProxyRequest(CI, 5, 7, 10) })
		minute()
		minute()
		one := func(n int64, users ...int64) report {
			return report{
				Counters: map[string]int64{"k8s_api_proxy_request": n, "k8s_api_proxy_requests_via_ci_access": n},
				Unique: map[string][]int64{
					"k8s_api_proxy_requests_unique_users_via_ci_access":  users,
					"k8s_api_proxy_requests_unique_agents_via_ci_access": {7},
				},
			}
		}
		g.wantReports(t, one(2, 5, 6), one(1, 5))
	})
}

func TestUsage_LastReportAtShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{}
		tracker := newTracker(t, g, nil)
		stop := run(tracker)
		tracker.ProxyRequest(CI, 5, 7, 10)
		stop()
		if len(g.reports) != 1 || len(g.events) != 1 {
			t.Errorf("%d reports and %d events", len(g.reports), len(g.events))
		}
	})
}

func TestUsage_ShutdownDoesNotWaitForASlowGitLab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{hang: true}
		tracker := newTracker(t, g, nil)
		stop := run(tracker)
		tracker.ProxyRequest(CI, 5, 7, 10)
		time.Sleep(time.Minute + time.Second) // a report is under way
		start := time.Now()
		stop()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("stopped after %v", took)
		}
	})
}

func TestUsage_ZeroPeriodsSwitchOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{}
		tracker := newTracker(t, g, func(c *Config) { c.UsagePeriod, c.EventPeriod = 0, 0 })
		stop := run(tracker)
		tracker.ProxyRequest(CI, 5, 7, 10)
		tracker.FluxNotified(10)
		tracker.Registered(backend.Agent{ID: 7}, &entity.AgentMeta{})
		minute()
		stop()
		g.wantReports(t)
		g.wantEvents(t)
	})
}

func TestUsage_Bounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{err: errors.New("down")}
		tracker := newTracker(t, g, func(c *Config) { c.MaxItems = 3 })
		defer run(tracker)()
		for round := range int64(3) {
			for id := range int64(10) {
				tracker.ProxyRequest(CI, 1+round*10+id, 7, 10)
				tracker.Registered(backend.Agent{ID: 1 + round*10 + id}, nil)
			}
			minute()
		}
		g.set(nil, false)
		minute()
		if n := len(g.reports[0].Unique["k8s_api_proxy_requests_unique_users_via_ci_access"]); n != 3 {
			t.Errorf("%d users kept", n)
		}
		if n := g.reports[0].Counters["k8s_api_proxy_request"]; n != 30 {
			t.Errorf("%d requests counted", n)
		}
		var events map[string][]any
		if err := json.Unmarshal([]byte(g.events[0]), &events); err != nil {
			t.Fatal(err)
		}
		for kind, list := range events {
			if len(list) != 3 {
				t.Errorf("%d of %s kept", len(list), kind)
			}
		}
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{}
		tracker := newTracker(t, g, func(c *Config) { c.UsagePeriod = 0 })
		defer run(tracker)()
		agent := backend.Agent{ID: 7, Name: "lab", Project: backend.Project{ID: 10}}
		for range 2 { // pods
			tracker.Registered(agent, &entity.AgentMeta{
				Version: "v18.1.0", PodName: "differs", KubernetesVersion: &entity.KubernetesVersion{GitVersion: "v1.33.1", Platform: "linux/arm64"},
				ExtraTelemetryData: map[string]string{"installation_method": "helm", "helm_chart_version": "2.1.0", "other": "secret"},
			})
		}
		tracker.ProxyRequest(CI, 5, 7, 10)
		tracker.ProxyRequest(CI, 5, 8, 10)
		tracker.ProxyRequest(PAT, 5, 8, 11)
		tracker.ProxyRequest(User, 0, 8, 11)
		minute()
		g.wantEvents(t, `{"k8s_api_proxy_requests_unique_users_via_ci_access":[{"user_id":5,"project_id":10}],`+
			`"k8s_api_proxy_requests_unique_users_via_pat_access":[{"user_id":5,"project_id":11}],`+
			`"register_agent_at_kas":[{"project_id":10,"agent_version":"v18.1.0","architecture":"arm64","agent_id":7,"kubernetes_version":"v1.33.1",`+
			`"extra_telemetry_data":{"installation_method":"helm","helm_chart_version":"2.1.0"}}]}`)
		g.wantReports(t)
	})
}

// GitLab before 17.2 has no events; it is not asked again and again.
func TestEvents_UnknownToGitLab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{err: fault.New(fault.NotFound, fault.GitLab, "HTTP status code: 404")}
		tracker := newTracker(t, g, func(c *Config) { c.UsagePeriod = 0 })
		defer run(tracker)()
		tracker.ProxyRequest(CI, 5, 7, 10)
		minute()
		g.set(nil, false)
		tracker.ProxyRequest(CI, 5, 7, 10)
		minute()
		g.wantEvents(t)
	})
}

func TestTracker_NilGathersNothing(t *testing.T) {
	var tracker *Tracker
	tracker.ProxyRequest(CI, 1, 1, 1)
	tracker.FluxNotified(1)
	tracker.Registered(backend.Agent{}, nil)
	if err := tracker.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNew_Refusals(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no reporter":     {Log: zap.NewNop()},
		"no log":          {Reporter: &gitLab{}},
		"negative period": {Reporter: &gitLab{}, Log: zap.NewNop(), UsagePeriod: -1},
		"negative events": {Reporter: &gitLab{}, Log: zap.NewNop(), EventPeriod: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTracker_ManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gitLab{}
		tracker := newTracker(t, g, nil)
		stop := run(tracker)
		var wg sync.WaitGroup
		for i := range int64(8) {
			wg.Go(func() {
				for range 500 {
					tracker.ProxyRequest(CI, 1+i, 7, 10)
					time.Sleep(time.Second)
				}
			})
		}
		wg.Wait()
		stop()
		var n int64
		for _, r := range g.reports {
			n += r.Counters["k8s_api_proxy_request"]
		}
		if n != 8*500 {
			t.Errorf("%d requests reported", n)
		}
	})
}
