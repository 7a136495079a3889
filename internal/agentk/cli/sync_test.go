package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
	"gitlab.com/agentk/agentk/test/fakeengine"
)

// states is an API server that knows the states of synchronisations.
func states(t *testing.T, items ...corev1.ConfigMap) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}}
		selector := r.URL.Query().Get("labelSelector")
		for _, m := range items {
			inScope := r.URL.Path == "/api/v1/configmaps" || r.URL.Path == "/api/v1/namespaces/"+m.Namespace+"/configmaps"
			if inScope && (selector == status.Label || selector == status.Label+"="+m.Labels[status.Label]) {
				list.Items = append(list.Items, m)
			}
		}
		if r.URL.Path == "/api/v1/namespaces/forbidden/configmaps" {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"no"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(list)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func state(t *testing.T, agent, project, namespace string, d status.Document) corev1.ConfigMap {
	t.Helper()
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: status.Name(agent + "-" + project), Labels: map[string]string{status.Label: agent}},
		Data:       map[string]string{status.DataKey: string(data)},
	}
}

func someStates(t *testing.T) string {
	long := time.Now().Add(-time.Hour)
	return states(
		t,
		state(t, "7", "42", "prod", status.Document{
			Unit: "group/app", State: status.Failed, Commit: "0123456789abcdef", Finished: &long, Error: "one object failed",
			Counts: status.Counts{Applied: 3, Failed: 1},
			Objects: []status.Object{
				{Group: "apps", Kind: "Deployment", Namespace: "prod", Name: "web", File: "web.yaml", Line: 3, Action: "apply", Result: "failed", Error: "no such image"},
				{Kind: "Service", Namespace: "prod", Name: "web", File: "web.yaml", Line: 30, Action: "apply", Result: "succeeded", Status: "Current"},
			},
		}),
		state(t, "7", "chart-abc", "default", status.Document{Unit: "release", State: status.Succeeded, Commit: "c", Finished: &long}),
		state(t, "8", "42", "other", status.Document{Unit: "group/app", State: status.Running, Commit: "c"}),
	)
}

func TestGitOpsStatus(t *testing.T) {
	server := someStates(t)
	for name, tc := range map[string]struct {
		args      []string
		want, not []string
	}{
		"all": {nil, []string{
			"NAMESPACE  UNIT", "prod       group/app  7      Failed     0123456789ab  3        0       0          0        1       1h0m0s",
			"default    release", "other      group/app  8      Running", "one object failed",
			"prod/Deployment.apps/web  apply  failed", "web.yaml:3  no such image",
		}, []string{"prod/Service/web"}},
		"one":       {[]string{"group/app", "--agent-id", "7"}, []string{"prod/Service/web", "web.yaml:30"}, []string{"other", "release"}},
		"namespace": {[]string{"-n", "default"}, []string{"release"}, []string{"group/app"}},
		"json":      {[]string{"-o", "json", "release"}, []string{`"namespace": "default"`, `"agentId": 7`, `"unit": "release"`}, []string{"group/app"}},
		"no json":   {[]string{"-o", "json", "nothing"}, []string{"[]"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, nil)
			if code := Main(nil, append([]string{"gitops", "status", "--server", server}, tc.args...), p.Process); code != 0 {
				t.Fatal(p.err.String())
			}
			for _, want := range tc.want {
				if !strings.Contains(p.out.String(), want) {
					t.Errorf("no %q in\n%s", want, p.out.String())
				}
			}
			for _, not := range tc.not {
				if strings.Contains(p.out.String(), not) {
					t.Errorf("%q in\n%s", not, p.out.String())
				}
			}
		})
	}
}

func TestGitOpsStatus_Bad(t *testing.T) {
	broken := state(t, "7", "1", "a", status.Document{})
	broken.Data[status.DataKey] = "{"
	nobody := state(t, "x", "1", "a", status.Document{})
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"nothing":   {[]string{"--server", states(t)}, "there is no synchronisation yet"},
		"output":    {[]string{"-o", "yaml"}, "--output"},
		"forbidden": {[]string{"--server", states(t), "-n", "forbidden"}, "no"},
		"broken":    {[]string{"--server", states(t, broken)}, "ConfigMap a/gitops-status-7-1"},
		"no agent":  {[]string{"--server", states(t, nobody)}, "has no agent"},
		"away":      {[]string{"--server", "http://127.0.0.1:1"}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, nil)
			if code := Main(nil, append([]string{"gitops", "status"}, tc.args...), p.Process); code == 0 || !strings.Contains(p.err.String(), tc.want) {
				t.Error(code, p.err.String())
			}
		})
	}
}

// checkout writes files and returns their folder.
func checkout(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestGitOpsDiff(t *testing.T) {
	server := someStates(t)
	dir := checkout(t, map[string]string{
		"a.yaml": "a", "b.txt": "b", ".git/x.yaml": "git", "k/kustomization.yaml": "need:base", "base/x": "x", "empty.json": "",
	})
	run := func(args ...string) *fakeProcess {
		p := newProcess(t, nil)
		code := Main(nil, append([]string{
			"gitops", "diff", "group/app", "--agent-id=7", "--dir", dir, "--server", server, "--gitops-engine", fakeengine.Executable(t),
		}, args...), p.Process)
		if code != 2 && len(args) > 0 && args[0] == "--exit-code" || code != 0 && len(args) == 0 {
			t.Fatal(code, p.err.String())
		}
		return p
	}
	p := run("--exit-code")
	want := "create ConfigMap a/b (a.yaml:1)\n+a\ncreate ConfigMap a/b (base/x:1)\n+x\ncreate ConfigMap a/b (empty.json:1)\n+\n" +
		"create ConfigMap a/b (k/kustomization.yaml:1)\n+need:base\nprune Secret a/old\ninventory-7-42 of prod\n"
	if p.out.String() != want || !strings.Contains(p.err.String(), "group/app: 4 to apply, 1 to delete, 0 refused") {
		t.Errorf("%s\n%s", p.out.String(), p.err.String())
	}
	config := write(t, "gitops:\n  manifest_projects:\n  - id: other\n  - paths: [{glob: 'a.*'}]\n    default_namespace: team\n")
	p = run("--agent-config", config)
	if want = "create ConfigMap a/b (a.yaml:1)\n+a\nprune Secret a/old\ninventory-7-42 of team\n"; p.out.String() != want {
		t.Errorf("%s\n%s", p.out.String(), p.err.String())
	}
}

func TestGitOpsDiff_Bad(t *testing.T) {
	server := someStates(t)
	for name, tc := range map[string]struct {
		files map[string]string
		args  []string
		want  string
	}{
		"no dir":      {nil, []string{"--dir", ""}, "--dir is required"},
		"missing dir": {nil, []string{"group/app", "--agent-id=7", "--dir", "/nonexistent"}, "no such file"},
		"which":       {nil, []string{"group/app"}, "which one: group/app (agent 8), group/app (agent 7)?"},
		"chart":       {nil, []string{"release"}, "charts are shown by helm template"},
		"config":      {nil, []string{"group/app", "--agent-id=7", "--agent-config", "/nonexistent"}, "--agent-config"},
		"not in it":   {nil, []string{"group/app", "--agent-id=7", "--agent-config", write(t, "ci_access: {}")}, "has no project \"group/app\""},
		"bad config":  {nil, []string{"group/app", "--agent-id=7", "--agent-config", write(t, "x: y")}, "line 1"},
		"bad files":   {map[string]string{"a.yaml": fakeengine.Fail}, []string{"group/app", "--agent-id=7"}, "a.yaml:1: something is wrong"},
		"crash":       {map[string]string{"a.yaml": fakeengine.Crash}, []string{"group/app", "--agent-id=7"}, "the GitOps engine failed"},
		"no engine":   {nil, []string{"group/app", "--agent-id=7", "--gitops-engine", "/nonexistent"}, "start the GitOps engine"},
		"for ever": {
			map[string]string{"k/a.yaml": "need:k1", "k/b.yaml": "need:k2", "k/c.yaml": "need:k3", "k/d.yaml": "need:k4", "k/e.yaml": "need:k5", "k/f.yaml": "need:k6", "k/g.yaml": "need:k7", "k/h.yaml": "need:k8", "k/i.yaml": "need:k9", "k/j.yaml": "need:k10", "k/k.yaml": "need:k11"},
			[]string{"group/app", "--agent-id=7"},
			"more than 10 directories",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, nil)
			args := []string{"gitops", "diff", "--server", server, "--gitops-engine", fakeengine.Executable(t), "--dir", checkout(t, tc.files)}
			if code := Main(nil, append(args, tc.args...), p.Process); code != 1 || !strings.Contains(p.err.String(), tc.want) {
				t.Error(code, p.err.String())
			}
		})
	}
}

func TestGitOpsFlags(t *testing.T) {
	base := []string{"--kas-address", "wss://kas.example.com", "--token-file", write(t, "token"), "--kubeconfig", kubeconfig(t)}
	got := started(t, newProcess(t, map[string]string{memoryVariable: "1Gi"}), base...).GitOps
	if got.Memory != 1<<30 || got.Engine != "" || len(got.ValuesURLs) != 0 {
		t.Errorf("%+v", got)
	}
	got = started(t, newProcess(t, map[string]string{memoryVariable: "1Gi"}), append(base, "--gitops-memory-limit", "256Mi", "--gitops-engine=/x",
		"--gitops-values-url=https://a/", "--gitops-values-url=https://b/c")...).GitOps
	if got.Memory != 256<<20 || got.Engine != "/x" || len(got.ValuesURLs) != 2 {
		t.Errorf("%+v", got)
	}
	for name, tc := range map[string]struct{ arg, env, want string }{
		"http":        {"--gitops-values-url=http://a/", "", "--gitops-values-url"},
		"no quantity": {"--gitops-memory-limit=much", "", "--gitops-memory-limit"},
		"too little":  {"--gitops-memory-limit=1Mi", "", "at least 64Mi"},
		"environment": {"--gitops-engine=/x", "much", memoryVariable},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, map[string]string{memoryVariable: tc.env})
			if code := Main(nil, append(base, tc.arg), p.Process); code == 0 || !strings.Contains(p.err.String(), tc.want) {
				t.Error(code, p.err.String())
			}
		})
	}
}
