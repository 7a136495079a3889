package line

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster))
}

// rights let jobs of project acme/shop (id 101 or 102: whichever is numbered so) work with ConfigMaps of namespace default.
const rights = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: jobs, namespace: default}, rules: [
  {apiGroups: [""], resources: [configmaps], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: jobs, namespace: default},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: jobs},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "gitlab:ci_job"}]}
`

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestLine_EverySchemeAndPower(t *testing.T) {
	if err := cluster.Apply(soon(t), rights); err != nil {
		t.Fatal(err)
	}
	for scheme, power := range map[string]Power{WS: Impersonate, WSS: TokenOnly, GRPC: Impersonate, GRPCS: TokenOnly} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			ctx := soon(t)
			l := StartT(t, Config{ControlPlane: cluster, Scheme: scheme, Agents: []Agent{{
				ID: 7, Name: "way-" + scheme, Project: "acme/infra", Config: CIAccess("{ci_job: {}}", "acme/shop"), Power: power,
			}}})
			name, err := l.Kubectl(ctx, 9001, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
			if err != nil || name != "gitlab:ci_job:9001" {
				t.Errorf("the job is %q in the cluster, %v", name, err)
			}
			manifest := "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + scheme + "}, data: {word: hello}}"
			if out, err := l.Apply(ctx, 9001, manifest); err != nil {
				t.Errorf("apply: %s, %v", out, err)
			}
			word, err := cluster.Kubectl(ctx, "get", "configmap", scheme, "-o", "jsonpath={.data.word}")
			if err != nil || word != "hello" {
				t.Errorf("word in the cluster = %q, %v", word, err)
			}
		})
	}
}

func TestLine_DaemonsComeAndGo(t *testing.T) {
	ctx := soon(t)
	l := StartT(t, Config{ControlPlane: cluster})
	exit, err := l.StopAgent(ctx, "demo")
	if err != nil || exit.Code != 0 {
		t.Errorf("SIGTERM of agentk: %+v, %v; want exit code 0", exit, err)
	}
	if exit, err = l.KillKas(ctx); err != nil || exit.Code != -1 {
		t.Errorf("SIGKILL of kas: %+v, %v; want no exit code", exit, err)
	}
	if err := l.StartKas(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(ctx, "demo"); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(ctx, "demo"); err == nil {
		t.Error("an agent that runs was started once more")
	}
	client, err := l.HTTPClient(9001, "demo")
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(l.ProxyURL + "/version")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("GET /version: %d %s, %v", response.StatusCode, body, err)
	}
	for who, page := range map[string]func() (string, error){
		"kas":    func() (string, error) { return l.KasMetrics(ctx) },
		"agentk": func() (string, error) { return l.AgentMetrics(ctx, "demo") },
	} {
		metrics, err := page()
		if err != nil {
			t.Fatal(err)
		}
		if _, found := Metric(metrics, "go_goroutines"); !found {
			t.Errorf("metrics of %s say nothing of goroutines", who)
		}
	}
	if exit, err = l.StopKas(ctx); err != nil || exit.Code != 0 {
		t.Errorf("SIGTERM of kas: %+v, %v; want exit code 0", exit, err)
	}
}

func TestLine_JobsThatMayNot(t *testing.T) {
	ctx := soon(t)
	l := StartT(t, Config{ControlPlane: cluster, Jobs: []Job{
		{ID: 1, Project: "acme/shop"},
		{ID: 2, Project: "acme/intern", Denied: true},
	}})
	_, err := l.Kubectl(ctx, 2, "get", "--raw", "/version")
	if err == nil || !strings.Contains(err.Error(), "agentId is not allowed") {
		t.Errorf("err = %v, want that the agent is not allowed", err)
	}
	if err := l.WriteKubeconfig(ctx, 3); err == nil {
		t.Error("a job that does not exist has a kubeconfig")
	}
	err = l.Update(func(c *Config) { c.Jobs[0].Token = "replaced-behind-the-jobs-back" })
	if err != nil {
		t.Fatal(err)
	}
	Eventually(ctx, t, "the old token is refused", func(ctx context.Context) error {
		_, err := l.Kubectl(ctx, 1, "get", "--raw", "/version")
		if err != nil && strings.Contains(err.Error(), "Unauthorized") {
			return nil
		}
		return &CommandError{Program: "kubectl", Stderr: "it was let in", err: err}
	})
}

func TestLine_NothingStays(t *testing.T) {
	l, err := Start(soon(t), Config{ControlPlane: cluster})
	if err != nil {
		t.Fatal(err)
	}
	dir := l.Dir
	for what, secret := range l.Secrets() {
		content, err := os.ReadFile(l.KasFile)
		if err != nil || strings.Contains(string(content), secret) {
			t.Errorf("%s is in clear in the kas configuration file, %v", what, err)
		}
	}
	l.Stop()
	l.Stop()
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
}

func TestStart_BadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no cluster":    {},
		"scheme":        {ControlPlane: cluster, Scheme: "http"},
		"yaml":          {ControlPlane: cluster, ExtraKasYAML: "{"},
		"pod of nobody": {ControlPlane: cluster, Agents: []Agent{{ID: 7, Name: "b", PodOf: "a"}}},
		"kas says no":   {ControlPlane: cluster, ExtraKasYAML: "standalone: {nonsense: true}"},
	} {
		if l, err := Start(soon(t), cfg); err == nil {
			l.Stop()
			t.Errorf("%s: no error", name)
		}
	}
}
