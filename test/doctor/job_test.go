package doctor

import (
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// jobEnv is the environment of a job of the line. change, unless nil, spoils the kubeconfig.
func jobEnv(t *testing.T, l *line.Line, job int64, change func(string) string) []string {
	t.Helper()
	path := l.KubeconfigPath(job)
	if change != nil {
		path = write(t, change(read(t, path)))
	}
	return []string{"CI_JOB_ID=1", "GITLAB_CI=true", "KUBECONFIG=" + path, "SSL_CERT_FILE=" + l.Authority.File}
}

// jobSecret is the token of a job.
func jobSecret(t *testing.T, l *line.Line, job int64) string {
	t.Helper()
	bearer, err := l.Bearer(job, "demo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(bearer, "ci:7:")
}

func TestJob_Green(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	secret := jobSecret(t, l, goodJob)
	env := append(jobEnv(t, l, goodJob, nil), "CI_JOB_TOKEN="+secret)
	r := examine(t, env, []string{secret}, binaries(t).Agentk)
	green(t, r)
	if r.Mode != "job" {
		t.Errorf("mode %s", r.Mode)
	}
	for id, want := range map[string]string{
		"kubeconfig": "acme/infra:demo", "credential": "for agent 7", "access": "Kubernetes v", "identity": "gitlab:ci_job:9001, in gitlab:ci_job,",
		"rights": "configmaps", "streams": "requests for an upgrade arrive at the cluster",
	} {
		if got := find(t, r, id).What; !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
	r = examine(t, env, []string{secret}, binaries(t).Agentk, "--can", "create configmaps", "--can", "watch configmaps")
	green(t, r, "streams")
}

func TestJob_Findings(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	cases := []struct {
		name string
		env  []string
		args []string
		want diagnosis
	}{
		{
			"RBAC missing for the job", jobEnv(t, l, poorJob, nil), nil,
			diagnosis{"rights", "job-rights", 15, "nothing in namespace default", "create rolebinding gitlab-jobs --clusterrole=edit --group=gitlab:project:"},
		},
		{
			"RBAC missing for one action", jobEnv(t, l, goodJob, nil),
			[]string{"--can", "create configmaps", "--can", "create deployments.apps"},
			diagnosis{"rights", "job-rights", 15, "may not create deployments.apps in", "--group=gitlab:project:42"},
		},
		{
			"wrong context name", jobEnv(t, l, goodJob, nil),
			[]string{"--context", "acme/infra:dmeo"},
			diagnosis{"context", "wrong-context", 16, `no "acme/infra:dmeo"; available: acme/infra:demo`, "contexts that are there"},
		},
		{
			"project not in ci_access", jobEnv(t, l, deniedJob, nil), nil,
			diagnosis{"access", "not-in-ci-access", 16, "agentId is not allowed", "ci_access"},
		},
		{
			"no kubeconfig",
			[]string{"CI_JOB_ID=1"},
			nil,
			diagnosis{"kubeconfig", "no-kubeconfig", 16, "KUBECONFIG is not set", "ci_access"},
		},
		{
			"kubeconfig without contexts", jobEnv(t, l, goodJob, func(string) string { return "{apiVersion: v1, kind: Config}" }), nil,
			diagnosis{"kubeconfig", "no-kubeconfig", 16, "no context", "ci_access"},
		},
		{
			"content instead of path",
			[]string{"CI_JOB_ID=1", "KUBECONFIG=apiVersion: v1\nkind: Config"},
			nil,
			diagnosis{"kubeconfig", "kubeconfig-overridden", 16, "not the path", "variables:"},
		},
		{
			"another file", jobEnv(t, l, goodJob, func(string) string { return "pa55word: [" }), nil,
			diagnosis{"kubeconfig", "kubeconfig-overridden", 16, "not a kubeconfig", "Remove the variable"},
		},
		{
			"agent may not impersonate", jobEnv(t, l, weakJob, nil), nil,
			diagnosis{"access", "impersonate", 15, "cannot impersonate", "ClusterRole"},
		},
		{
			"token of a job that has ended", jobEnv(t, l, goodJob, func(c string) string {
				return strings.ReplaceAll(c, jobSecret(t, l, goodJob), "glcbt-pa55word")
			}), nil,
			diagnosis{"access", "job-token-refused", 13, "401", "within the job"},
		},
		{
			"token of another kind", jobEnv(t, l, goodJob, func(c string) string {
				return strings.ReplaceAll(c, "ci:7:"+jobSecret(t, l, goodJob), "pa55word")
			}), nil,
			diagnosis{"credential", "credential-shape", 13, "three parts", "ci:<agent id>:<job token>"},
		},
		{
			"plain http", jobEnv(t, l, goodJob, func(c string) string { return strings.ReplaceAll(c, "https://", "http://") }), nil,
			diagnosis{"server", "plain-proxy", 12, "http://", "https://"},
		},
		{
			"wrong prefix", jobEnv(t, l, goodJob, func(c string) string { return strings.ReplaceAll(c, "/k8s-proxy", "/k8s") }), nil,
			diagnosis{"proxy-http", "wrong-prefix", 12, "/k8s", "url_path_prefix"},
		},
		{
			"the agents' port", jobEnv(t, l, goodJob, func(c string) string { return strings.ReplaceAll(c, l.ProxyAddress, l.AgentAddress) }), nil,
			diagnosis{"proxy-http", "not-the-proxy", 12, "agents", "8154"},
		},
		{
			"port closed", jobEnv(t, l, goodJob, func(c string) string { return strings.ReplaceAll(c, l.ProxyAddress, nowhere) }), nil,
			diagnosis{"proxy-tcp", "port-closed", 10, nowhere, "8154"},
		},
		{
			"private CA missing", jobEnv(t, l, goodJob, nil)[:3], nil,
			diagnosis{"proxy-tls", "private-ca", 11, "run of", "SSL_CERT_FILE"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.want.confirm(t, examine(t, c.env, []string{"pa55word", jobSecret(t, l, goodJob)}, binaries(t).Agentk, c.args...))
		})
	}
}

// TestJob_AgentOffline takes as long as the doctor has patience.
func TestJob_AgentOffline(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	r := examine(t, jobEnv(t, l, lateJob, nil), nil, binaries(t).Agentk)
	diagnosis{"access", "agent-offline", 18, "no connection of agent 8", "agentk doctor"}.confirm(t, r)
}

// TestJob_Doubts are what works now and not always.
func TestJob_Doubts(t *testing.T) {
	t.Parallel()
	l := theLine(t)
	unchosen := func(c string) string {
		return strings.ReplaceAll(c, "current-context: acme/infra:demo", `current-context: ""`)
	}
	env := append(jobEnv(t, l, goodJob, unchosen), "CI_JOB_TOKEN=that-of-another-job")
	r := examine(t, env, []string{jobSecret(t, l, goodJob), "that-of-another-job"}, binaries(t).Agentk)
	for id, cause := range map[string]string{"context": "no-context", "credential": "job-token-stale"} {
		if c := find(t, r, id); c.Status != "warn" || c.CauseID != cause || c.Fix == "" {
			t.Errorf("%+v", c)
		}
	}
	if c := find(t, r, "context"); !strings.Contains(c.Fix, "use-context acme/infra:demo") {
		t.Errorf("fix: %s", c.Fix)
	}
	if r.ExitCode != 0 || find(t, r, "access").Status != "ok" {
		t.Errorf("exit code %d, access %+v", r.ExitCode, find(t, r, "access"))
	}
	r = examine(t, append(env, "KUBE_CONTEXT=acme/infra:demo"), nil, binaries(t).Agentk)
	if c := find(t, r, "context"); c.Status != "ok" {
		t.Errorf("with KUBE_CONTEXT: %+v", c)
	}
}
