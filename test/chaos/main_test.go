package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/fleet"
	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// The agents of most fleets here: one of the real cluster, and one of the double.
const (
	demo     = "demo"
	demoID   = 7
	doubled  = "doubled"
	doubleID = 8
)

var (
	cluster *kube.ControlPlane
	// common are fleets for tests that leave theirs as they found it, one test at a time: two, so that one waits while another works. Each has
	// two kas; demo has a second process that a test may start. A fleet starts with its first test.
	common = make(chan *bed, 2)
)

type bed struct{ fleet *fleet.Fleet }

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(&suite{kube.Tests(m, kube.Config{}, &cluster)})
}

// suite stops what tests share after the last of them.
type suite struct{ kube *kube.Suite }

func (s *suite) Run() int {
	for range cap(common) {
		common <- &bed{}
	}
	defer func() {
		for range cap(common) {
			if b := <-common; b.fleet != nil {
				b.fleet.Stop()
			}
		}
	}()
	return s.kube.Run()
}

// rights let jobs work with ConfigMaps.
const rights = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: chaos}, rules: [
  {apiGroups: [""], resources: [configmaps], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: chaos},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: chaos},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "gitlab:ci_job"}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: word}, data: {word: hello}}`

// config is that of most fleets.
func config() fleet.Config {
	return fleet.Config{ControlPlane: cluster, Doubled: []string{doubled}, Agents: []line.Agent{
		{ID: demoID, Name: demo, Project: "acme/infra"},
		{Name: demo + "-1", PodOf: demo, Manual: true},
		{ID: doubleID, Name: doubled, Project: "acme/doubled"},
	}}
}

// start starts a fleet for one test.
func start(t testing.TB, cfg fleet.Config) *fleet.Fleet {
	t.Helper()
	if err := cluster.Apply(soon(t), rights); err != nil {
		t.Fatal(err)
	}
	return fleet.StartT(t, cfg)
}

// share gives a test the common fleet, alone. Afterwards all links are healed, what the test stopped runs again, and everybody has to hold
// what they held before.
func share(t *testing.T) *fleet.Fleet {
	t.Helper()
	t.Parallel()
	b := <-common
	t.Cleanup(func() { common <- b })
	if b.fleet == nil {
		if err := cluster.Apply(soon(t), rights); err != nil {
			t.Fatal(err)
		}
		cfg := config()
		cfg.Parse = true
		var err error
		if b.fleet, err = fleet.Start(soon(t), cfg); err != nil {
			t.Fatal(err)
		}
	}
	f := b.fleet
	before := census(t, f)
	t.Cleanup(func() {
		if err := heal(f); err != nil {
			t.Errorf("heal the fleet: %v", err)
		}
		works(t, f)
		f.Settle(t, before)
		f.Check(t)
		if t.Failed() { // the next test is not to suffer
			f.Stop()
			b.fleet = nil
		}
	})
	return f
}

// census counts in a fleet at rest.
func census(t testing.TB, f *fleet.Fleet) fleet.Census {
	t.Helper()
	works(t, f)
	before, err := f.Take(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return before
}

// works waits until both agents can be reached through every kas.
func works(t testing.TB, f *fleet.Fleet) {
	t.Helper()
	for _, k := range f.Kas {
		for _, agent := range []string{demo, doubled} {
			line.Eventually(soon(t), t, agent+" can be reached through "+k.Name, func(ctx context.Context) error {
				return ok(ask(ctx, f, via(k), agent, "/version"))
			})
		}
	}
}

// heal makes all links perfect and starts what does not run.
func heal(f *fleet.Fleet) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	links := []*badlink.Link{f.Agents.Link, f.Proxy.Link}
	var errs []error
	for _, k := range f.Kas {
		links = append(links, k.PeerLink)
		if k.RedisLink != nil {
			links = append(links, k.RedisLink)
		}
		if !k.Runs() {
			errs = append(errs, k.Start(ctx))
		}
		errs = append(errs, f.WaitReady(ctx, k, true))
	}
	for _, pod := range f.Pods {
		links = append(links, pod.Link)
	}
	for _, link := range links {
		errs = append(errs, link.Heal())
	}
	f.Agents.Only()
	f.Proxy.Only()
	if f.AgentRuns(demo + "-1") {
		_, err := f.StopAgent(ctx, demo+"-1")
		errs = append(errs, err)
	}
	for _, name := range []string{demo, doubled} {
		if !f.AgentRuns(name) {
			errs = append(errs, f.StartAgent(ctx, name))
		}
	}
	return errors.Join(errs...)
}

// holder returns the kas that an agent is connected to, and another one.
func holder(t testing.TB, f *fleet.Fleet, agentID int64) (holds, other *fleet.Kas) {
	t.Helper()
	line.Eventually(soon(t), t, "the agent is at one kas", func(ctx context.Context) error {
		urls, err := f.Locations(ctx, agentID)
		if err != nil {
			return err
		}
		at := slices.IndexFunc(f.Kas, func(k *fleet.Kas) bool { return slices.Contains(urls, k.URL) })
		if len(urls) != 1 || at < 0 {
			return fmt.Errorf("it is at %v", urls)
		}
		holds, other = f.Kas[at], f.Kas[(at+1)%len(f.Kas)]
		return nil
	})
	return holds, other
}

// metric reads a metric of a kas, over all its labels; 0 if there is none.
func metric(t testing.TB, k *fleet.Kas, name string) float64 {
	t.Helper()
	page, err := k.Page(soon(t), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	return sum(t, page, name)
}

func sum(t testing.TB, page, name string) float64 {
	t.Helper()
	sum := 0.0
	for text := range strings.Lines(page) {
		if rest, found := strings.CutPrefix(text, name); found && (rest[0] == ' ' || rest[0] == '{') {
			key := text[:strings.LastIndexByte(strings.TrimSpace(text), ' ')]
			value, err := fleet.Sample(page, key)
			if err != nil {
				t.Fatal(err)
			}
			sum += value
		}
	}
	return sum
}

func set(t testing.TB, l *badlink.Link, c badlink.Conditions) {
	t.Helper()
	if err := l.Set(c); err != nil {
		t.Fatal(err)
	}
}

// soon bounds what takes seconds on an idle machine.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until check returns nil.
func eventually(t testing.TB, what string, check func(context.Context) error) {
	t.Helper()
	line.Eventually(soon(t), t, what, check)
}
