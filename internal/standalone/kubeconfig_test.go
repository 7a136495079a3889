package standalone

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func kubeconfigOf(t *testing.T, section string, o KubeconfigOptions) (string, error) {
	t.Helper()
	out, err := Kubeconfig(t.Context(), Config{File: parseSection(t, section), Parse: parseStrict}, o)
	return string(out), err
}

func TestKubeconfig(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	r.write(".gitlab/agents/edge/config.yaml", "ci_access: {projects: [{id: infra/team/app, default_namespace: apps}]}")
	r.write(".gitlab/agents/closed/config.yaml", "")
	r.pushConfig("wide", "ci_access: {groups: [{id: infra}]}")
	section := strings.Replace(baseSection(root), "jobs:", "- {id: 8, name: wide, project: infra/agents}\n- {id: 9, name: closed, project: infra/agents}\njobs:", 1)
	got, err := kubeconfigOf(t, section, KubeconfigOptions{JobID: 9001, Token: jobToken})
	if err != nil {
		t.Fatal(err)
	}
	want := `apiVersion: v1
kind: Config
clusters:
  - name: gitlab
    cluster:
      server: https://kas.corp.test/k8s-proxy
users:
  - name: agent:7
    user:
      token: ci:7:` + jobToken + `
  - name: agent:8
    user:
      token: ci:8:` + jobToken + `
contexts:
  - name: infra/agents:edge
    context:
      cluster: gitlab
      namespace: apps
      user: agent:7
  - name: infra/agents:wide
    context:
      cluster: gitlab
      user: agent:8
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = kubeconfigOf(t, section, KubeconfigOptions{JobID: 9001, Token: jobToken, Server: "https://other.test:8154"})
	if err != nil || !strings.Contains(got, "server: https://other.test:8154\n") {
		t.Errorf("server is not the one given: %v\n%s", err, got)
	}
}

func TestKubeconfig_Refused(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	r.pushConfig("edge", "ci_access: {projects: [{id: infra/team/app, environments: [prod]}]}")
	section := baseSection(root)
	tests := []struct {
		name, section string
		o             KubeconfigOptions
		want          string
	}{
		{"no token", section, KubeconfigOptions{JobID: 9001}, "CI_JOB_TOKEN"},
		{"another token", section, KubeconfigOptions{JobID: 9001, Token: "canary-secret"}, "its SHA-256 differs from token_sha256"},
		{"agent token", section, KubeconfigOptions{JobID: 9001, Token: agentToken}, "differs"},
		{"unknown job", section, KubeconfigOptions{JobID: 1, Token: jobToken}, "job 1 is not in section standalone"},
		{"no agent", section, KubeconfigOptions{JobID: 9001, Token: jobToken}, "may use no agent"},
		{"expired", section + "  expires_at: 2001-01-01T00:00:00Z\n", KubeconfigOptions{JobID: 9001, Token: jobToken}, "has expired"},
		{"no server", strings.Replace(section, "kubernetes_api_url: https://kas.corp.test/k8s-proxy", "", 1), KubeconfigOptions{JobID: 9001, Token: jobToken}, "kubernetes_api_url"},
		{"server no URL", section, KubeconfigOptions{JobID: 9001, Token: jobToken, Server: "kas.corp.test"}, "must be an http:// or https:// URL"},
		{"server with password", section, KubeconfigOptions{JobID: 9001, Token: jobToken, Server: "https://u:canary-secret@kas.corp.test"}, "without credentials"},
		{"section", "{}", KubeconfigOptions{}, "repositories_dir"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := kubeconfigOf(t, tt.section, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "canary") || out != "" {
				t.Errorf("told too much: %v %q", err, out)
			}
			if (tt.name == "no token") != errors.Is(err, ErrNoToken) {
				t.Errorf("%v is ErrNoToken: %v", err, errors.Is(err, ErrNoToken))
			}
		})
	}
}
