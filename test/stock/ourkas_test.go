package stock

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	"gitlab.com/agentk/agentk/internal/kas"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/standalone"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

const (
	agentToken = "glagent-000001-0123456789abcdef0123456789abcdef01"
	jobToken   = "stock-job-token"
)

// ourKas is a kas of ours in this process. Its world is that of the recorded session: agent 1, job 1001.
type ourKas struct {
	agents, proxy, metrics string
	// client keeps its connections: one that closes them races with the end of its request's tunnel.
	client *http.Client
}

func startKas(t *testing.T, age string) *ourKas {
	t.Helper()
	dir := t.TempDir()
	configure(t, filepath.Join(dir, "repos", "group", "project.git"))
	agents, proxy, metrics := freeAddress(t), freeAddress(t), freeAddress(t)
	file := filepath.Join(dir, "kas.yaml")
	content := fmt.Sprintf(`
agent:
  listen: {address: %q, websocket: true, listen_grace_period: 0.01s, max_connection_age: %s}
  kubernetes_api: {listen: {address: %q, listen_grace_period: 0.01s, shutdown_grace_period: 0.01s}, url_path_prefix: /k8s-proxy/}
observability: {listen: {address: %q}}
standalone:
  repositories_dir: %q
  projects:
  - {id: 10, path: group/project, groups: [{id: 23, path: group}]}
  - {id: 150, path: group/sub/app, groups: [{id: 25, path: group/sub}, {id: 23, path: group}]}
  agents: [{id: 1, name: lab, project: group/project, token_sha256: [%s]}]
  jobs:
  - id: 1001
    token_sha256: %s
    pipeline: 2001
    project: group/sub/app
    environment: {name: prod, slug: prod, tier: production}
    user: {id: 3, username: ci-user}
`, agents, age, proxy, metrics, filepath.Join(dir, "repos"), standalone.HashToken(agentToken), standalone.HashToken(jobToken))
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	log, err := telemetry.NewLog(telemetry.LogConfig{Output: output{t}, Level: zapcore.DebugLevel})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- kas.Run(ctx, cfg, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	k := &ourKas{agents: agents, proxy: "http://" + proxy + "/k8s-proxy", metrics: "http://" + metrics, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}}}
	t.Cleanup(k.client.CloseIdleConnections)
	eventually(t, "readiness of kas", func() bool {
		status, _, err := get(t.Context(), k.client, k.metrics+"/readiness", "")
		return err == nil && status == http.StatusOK
	})
	return k
}

// output shows a log with the test's own output.
type output struct{ t *testing.T }

func (o output) Write(p []byte) (int, error) { return o.t.Output().Write(p) }

// freeAddress is an address nobody listens on at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// configure makes a bare repository with the configuration of agent "lab".
func configure(t *testing.T, bare string) {
	t.Helper()
	work := t.TempDir()
	file := filepath.Join(work, ".gitlab", "agents", "lab", "config.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	content := "ci_access: {projects: [{id: group/sub/app, default_namespace: default, access_as: {ci_job: {}}}]}\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", bare},
		{"-C", work, "init", "-q", "-b", "main"},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "configure"},
		{"-C", work, "push", "-q", bare, "main"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

// get is the status, the headers with the body, of an answer.
func get(ctx context.Context, client *http.Client, url, credential string) (int, *reply, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	if credential != "" {
		req.Header.Set("Authorization", credential)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, &reply{resp.Header, string(body)}, err
}

// reply is what an HTTP client gets.
type reply struct {
	header http.Header
	body   string
}

// outcome is a reply, or why there is none.
type outcome struct {
	status int
	*reply
	err error
}

// ask sends a job's request to the cluster of agent 1.
func (k *ourKas) ask(t *testing.T, path string) <-chan outcome {
	t.Helper()
	answered := make(chan outcome, 1)
	go func() {
		status, r, err := get(context.Background(), k.client, k.proxy+path, "Bearer ci:1:"+jobToken)
		answered <- outcome{status, r, err}
	}()
	return answered
}

// registered says whether kas counts that many pods of a version.
func (k *ourKas) registered(t *testing.T, version string, pods int) bool {
	t.Helper()
	_, r, err := get(t.Context(), k.client, k.metrics+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("kas_agents_connected{agent_id=\"1\",version=%q}", version)
	if pods == 0 {
		return !strings.Contains(r.body, line)
	}
	return strings.Contains(r.body, fmt.Sprintf("%s %d\n", line, pods))
}
