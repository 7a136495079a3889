package charts

import (
	"os"
	"path/filepath"
	"testing"
)

// recorder notes a failure instead of failing.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Error(...any)          { r.failed = true }
func (r *recorder) Errorf(string, ...any) { r.failed = true }

// Each check finds what it is there for.
func TestHarness(t *testing.T) {
	const (
		good = `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, securityContext: {
			runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}]}}`
		powerful   = `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}`
		deployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}},
			template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`
		misspelt = `{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 1, targetport: 2}]}}`
		unknown  = `{apiVersion: example.com/v1, kind: Thing, metadata: {name: t}}`
		monitor  = `{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: m}, spec: {endpoints: [{prot: a}], selector: {}}}`
		route    = `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {rules: [{matches: [{path: {value: no}}]}]}}`
	)
	namespace := cluster.Namespace(t)
	chart := New(t, cluster, agentChart)
	dryRun := func(manifest string) func(testing.TB) {
		return func(t testing.TB) { cluster.DryRun(t, namespace, manifest) }
	}
	refuses := func(values string, want ...string) func(testing.TB) {
		return func(t testing.TB) { chart.Refuses(t, values, want...) }
	}
	for name, tc := range map[string]struct {
		check func(testing.TB)
		fails bool
	}{
		"good pod":                    {dryRun(good), false},
		"powerful pod":                {dryRun(powerful), true},
		"Deployment of powerful pods": {dryRun(deployment), true},
		"powerful pods, restricted":   {dryRun(Pods(t, deployment)), true},
		"misspelt field":              {dryRun(misspelt), true},
		"unknown kind":                {dryRun(unknown), true},
		"misspelt field of a monitor": {dryRun(monitor), true},
		"bad path of a Gateway route": {dryRun(route), true},
		"refused":                     {refuses("{}", "token is required"), false},
		"refused for something else":  {refuses("{}", "something else"), true},
		"not refused":                 {refuses("config: {token: a}"), true},
		"lint of wrong values":        {func(t testing.TB) { chart.Lint(t, "replicas: two") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{TB: t}
			tc.check(r)
			if r.failed != tc.fails {
				t.Errorf("failed: %v, want %v", r.failed, tc.fails)
			}
		})
	}
}

func TestGolden(t *testing.T) {
	if *update {
		return
	}
	path := filepath.Join(t.TempDir(), "golden")
	if err := os.WriteFile(path, []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for got, fails := range map[string]bool{"a\nb\n": false, "a\nb": true, "a\nc\n": true} {
		r := &recorder{TB: t}
		if Golden(r, path, got); r.failed != fails {
			t.Errorf("%q failed: %v, want %v", got, r.failed, fails)
		}
	}
}
