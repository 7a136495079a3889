package gitlab

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// userGit runs git as a person does.
func (g *GitLab) userGit(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), g.git.program, args...)
	cmd.Dir = dir
	cmd.Env = append(g.git.environment(), "GIT_AUTHOR_NAME=CI user", "GIT_AUTHOR_EMAIL=ci-user@acme.test", "GIT_COMMITTER_NAME=CI user", "GIT_COMMITTER_EMAIL=ci-user@acme.test")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (g *GitLab) remote(token, project string) string {
	return strings.Replace(g.URL, "http://", "http://ci-user:"+token+"@", 1) + "/" + project + ".git"
}

func TestGitPush(t *testing.T) {
	fake, url := startKas(t)
	g := start(t, withKas(Config{PathPrefix: "/sub"}, url))
	pat, err := g.AddPAT(PAT{Username: "ci-user", Scopes: []string{"write_repository"}})
	check(t, err)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "big"), []byte(strings.Repeat("0123456789abcdef\n", 200_000)), 0o600))
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "."},
		{"commit", "--quiet", "--message", "one"},
		{"push", "--quiet", g.remote(pat.Value, "acme/infra"), "HEAD:main"},
	} {
		if out, err := g.userGit(t, dir, args...); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	g.notified(t, 1)
	if p := fake.pushed.GetEvent().GetProject(); p.GetFullPath() != "acme/infra" {
		t.Errorf("%v", p)
	}
	// The job of another project may read it only if its user may.
	must(t)(g.AddJob(Job{ID: 1, Token: "tok", Project: "acme/team/shop", User: "ci-user"}))
	must(t)(g.AddJob(Job{ID: 2, Token: "strange", Project: "other/docs", User: "ci-intern"}))
	if out, err := g.userGit(t, t.TempDir(), "clone", "--quiet", g.remote("tok", "acme/infra"), "."); err != nil {
		t.Errorf("job: %v: %s", err, out)
	}
	for name, args := range map[string][]string{
		"a stranger's job":   {"ls-remote", g.remote("strange", "acme/infra")},
		"nobody":             {"ls-remote", g.URL + "/acme/infra.git"},
		"unknown project":    {"ls-remote", g.remote(pat.Value, "acme/none")},
		"job pushes":         {"push", "--quiet", g.remote("tok", "acme/infra"), "HEAD:other"},
		"no developer there": {"push", "--quiet", g.remote(pat.Value, "other/docs"), "HEAD:main"},
	} {
		if out, err := g.userGit(t, dir, args...); err == nil {
			t.Errorf("%s: allowed: %s", name, out)
		}
	}
	if out, err := g.userGit(t, dir, "ls-remote", g.URL+"/other/docs.git"); err != nil {
		t.Errorf("public: %v: %s", err, out)
	}
	if r := g.ask(t, "GET", "/acme/infra.git/config", nil, nil); r.status != http.StatusNotFound {
		t.Errorf("a file of the repository: %d", r.status)
	}
}

// TestGitaly asks Gitaly for what was pushed, by what agent_info says.
func TestGitaly(t *testing.T) {
	g := start(t, Config{NoGitalyToken: true})
	ask := func() string {
		info := g.gitalyInfo()
		conn, err := grpc.NewClient(info.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		check(t, err)
		defer conn.Close()
		p, err := g.projectOf("acme/infra")
		check(t, err)
		r := p.gitalyRepository()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := gitaly.NewSmartHTTPServiceClient(conn).InfoRefsUploadPack(ctx, &gitaly.InfoRefsRequest{
			Repository: &gitaly.Repository{StorageName: r.StorageName, RelativePath: r.RelativePath},
		})
		check(t, err)
		var all strings.Builder
		for {
			m, err := stream.Recv()
			if err == io.EOF {
				return all.String()
			}
			check(t, err)
			all.Write(m.GetData())
		}
	}
	for _, content := range []string{"a: b\n", "c: d\n"} {
		commit, err := g.PushConfig(t.Context(), edgeID, content)
		check(t, err)
		if got := ask(); !strings.Contains(got, commit+" refs/heads/main") {
			t.Errorf("no %s in\n%s", commit, got)
		}
	}
	dir, err := g.RepositoryDir("acme/infra")
	check(t, err)
	if got, err := g.git.run(t.Context(), dir, nil, "cat-file", "blob", "main:.gitlab/agents/edge/config.yaml"); err != nil || got != "c: d" {
		t.Errorf("%q, %v", got, err)
	}
}
