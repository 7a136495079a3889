package standalone

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	agentToken = "glagent-canary-agent-token"
	jobToken   = "glcbt-canary-job-token"
)

func parseStrict(data []byte) (*agentcfg.ConfigurationFile, error) {
	json, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	file := &agentcfg.ConfigurationFile{}
	if string(json) == "null" {
		return file, nil
	}
	return file, protojson.Unmarshal(json, file)
}

// section parses the text of a standalone section.
func parseSection(t *testing.T, text string) *kascfg.StandaloneCF {
	t.Helper()
	json, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	file := &kascfg.StandaloneCF{}
	err = protojson.Unmarshal(json, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// baseSection has an agent "edge" of project infra/agents and a job of project infra/team/app.
func baseSection(root string) string {
	return `
repositories_dir: ` + root + `
kubernetes_api_url: https://kas.corp.test/k8s-proxy
projects:
- {id: 31, path: infra/agents, groups: [{id: 2, path: infra}]}
- {id: 42, path: infra/team/app, groups: [{id: 2, path: infra}, {id: 5, path: infra/team}]}
agents:
- {id: 7, name: edge, project: infra/agents, token_sha256: [` + HashToken(agentToken) + `]}
jobs:
- id: 9001
  token_sha256: ` + HashToken(jobToken) + `
  pipeline: 801
  project: infra/team/app
  environment: {name: review/one, slug: review-one-abc, tier: development}
  user: {id: 3, username: ci-user}
`
}

func newTestBackend(t *testing.T, section string, change func(*Config)) *Backend {
	t.Helper()
	cfg := Config{File: parseSection(t, section), Parse: parseStrict, Log: zap.NewNop()}
	if change != nil {
		change(&cfg)
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs the backend until the test ends.
func run(t *testing.T, b *Backend) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		err := <-done
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// gitRepo is a bare repository and a clone to push from.
type gitRepo struct {
	t          *testing.T
	bare, work string
}

func newGitRepo(t *testing.T, root, project string) *gitRepo {
	t.Helper()
	r := &gitRepo{t: t, bare: filepath.Join(root, project+".git"), work: t.TempDir()}
	runGit(t, root, "init", "--quiet", "--bare", "--initial-branch=main", r.bare)
	runGit(t, r.work, "init", "--quiet", "--initial-branch=main", ".")
	runGit(t, r.work, "remote", "add", "origin", r.bare)
	return r
}

func runGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME="+dir,
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@corp.test", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@corp.test")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *gitRepo) write(path, content string) {
	r.t.Helper()
	full := filepath.Join(r.work, path)
	err := os.MkdirAll(filepath.Dir(full), 0o755)
	if err != nil {
		r.t.Fatal(err)
	}
	err = os.WriteFile(full, []byte(content), 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
}

// push commits all of the work folder and pushes it; it returns the commit.
func (r *gitRepo) push(args ...string) string {
	r.t.Helper()
	runGit(r.t, r.work, "add", "--all")
	runGit(r.t, r.work, "commit", "--quiet", "--allow-empty", "--message", "change")
	runGit(r.t, r.work, append([]string{"push", "--quiet", "origin", "HEAD:main"}, args...)...)
	return runGit(r.t, r.work, "rev-parse", "HEAD")
}

func (r *gitRepo) pushConfig(agent, config string) string {
	r.t.Helper()
	r.write(".gitlab/agents/"+agent+"/config.yaml", config)
	return r.push()
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func wantFault(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", kind)
	}
	if fault.KindOf(err) != kind {
		t.Errorf("kind of %q is %s, want %s", err, fault.KindOf(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	for _, secret := range []string{agentToken, jobToken, os.TempDir() + "/"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error %q tells %q", err, secret)
		}
	}
}
