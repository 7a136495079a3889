package gitaly

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

const (
	storage = "default"
	secret  = "abc123secret"
	full    = "group/project.git"
)

// fixture is a storage with one repository of each kind.
type fixture struct {
	dir    string
	c1, c2 string
}

func runGit(t *testing.T, dir, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_COMMITTER_NAME=ci-user", "GIT_COMMITTER_EMAIL=ci-user@acme.test", "GIT_COMMITTER_DATE=1700000000 +0100",
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func (f *fixture) repository(t *testing.T, name string, args ...string) string {
	t.Helper()
	dir := filepath.Join(f.dir, name)
	runGit(t, f.dir, "", append([]string{"init", "--quiet", "--bare", "--initial-branch=main"}, append(args, dir)...)...)
	return dir
}

func data(content string) string { return fmt.Sprintf("data %d\n%s\n", len(content), content) }

func commitHead(ref, message string) string {
	return "commit " + ref + "\nauthor ci-user <ci-user@acme.test> 1700000000 +0100\ncommitter ci-user <ci-user@acme.test> 1700000000 +0100\n" + data(message)
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir()}
	dir := f.repository(t, full)
	script := commitHead("refs/heads/main", "First\n\nWith a body.")
	for _, file := range []struct{ mode, path, content string }{
		{"100644", ".gitlab/agents/demo/config.yaml", "ci_access:\n"},
		{"100644", ".gitlab/agents/other/config.yaml", "{}\n"},
		{"100644", "empty.txt", ""},
		{"100755", "run.sh", "echo 1\n"},
		{"120000", "link", "run.sh"},
		{"100644", "manifests/one.yaml", "one\n"},
		{"100644", "manifests/a/two.yaml", "two\n"},
		{"100644", "manifests/a/b/c/three.yaml", "three\n"},
		{"100644", "chain/x/y/leaf.txt", "leaf\n"},
		{"100644", "sp ace/f ile.txt", "space\n"},
		{"100644", "grüße.txt", "utf-8\n"},
		{"100644", "big.bin", strings.Repeat("0123456789", 30_000)},
	} {
		script += "M " + file.mode + " inline \"" + file.path + "\"\n" + data(file.content)
	}
	script += "M 160000 " + strings.Repeat("12", 20) + " sub\n\n"
	script += commitHead("refs/heads/main", "Second") + "D sub\nM 100755 inline run.sh\n" + data("echo 2\n")
	runGit(t, dir, script, "fast-import", "--quiet")
	f.c2, f.c1 = runGit(t, dir, "", "rev-parse", "main"), runGit(t, dir, "", "rev-parse", "main~1")
	runGit(t, dir, "", "tag", "--annotate", "--message", "v1", "v1", f.c1)
	for ref, commit := range map[string]string{
		"refs/heads/feature": f.c1, "refs/tags/light": f.c1, "refs/merge-requests/1/head": f.c1, "refs/pipelines/5": f.c1,
		"refs/environments/prod/deployments/1": f.c1, "refs/keep-around/" + f.c2: f.c2, "refs/tmp/x": f.c1, "refs/remotes/origin/foo": f.c1,
	} {
		runGit(t, dir, "", "update-ref", ref, commit)
	}
	f.repository(t, "E")
	f.repository(t, "SE", "--object-format=sha256")
	simple := func(ref string) string { return commitHead(ref, "One") + "M 100644 inline d/f\n" + data("content\n") }
	runGit(t, f.repository(t, "U"), simple("refs/heads/main"), "fast-import", "--quiet")
	runGit(t, filepath.Join(f.dir, "U"), "", "symbolic-ref", "HEAD", "refs/heads/gone")
	runGit(t, f.repository(t, "D"), simple("refs/heads/main"), "fast-import", "--quiet")
	runGit(t, filepath.Join(f.dir, "D"), "", "update-ref", "--no-deref", "HEAD", runGit(t, filepath.Join(f.dir, "D"), "", "rev-parse", "main"))
	runGit(t, f.repository(t, "T"), simple("refs/tags/only"), "fast-import", "--quiet")
	runGit(t, f.repository(t, "S", "--object-format=sha256"), simple("refs/heads/main"), "fast-import", "--quiet")
	if err := os.MkdirAll(filepath.Join(f.dir, "B/refs"), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

// client is a client of a double that serves the fixture.
type client struct {
	*fixture
	server *Server
	conn   *grpc.ClientConn
	token  func() string
	md     metadata.MD
}

func start(t *testing.T, cfg Config) *client {
	t.Helper()
	f := newFixture(t)
	return startOn(t, f, cfg)
}

func startOn(t *testing.T, f *fixture, cfg Config) *client {
	t.Helper()
	cfg.Storages = map[string]string{storage: f.dir, "nowhere": filepath.Join(f.dir, "missing-storage")}
	server, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(strings.TrimPrefix(server.TCPAddress(), "tcp://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{fixture: f, server: server, conn: conn, md: metadata.MD{}}
}

func token(key string, at time.Time) string { return tokenOf(key, strconv.FormatInt(at.Unix(), 10)) }

func (c *client) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	md := c.md.Copy()
	if c.token != nil {
		md.Set("authorization", c.token())
	}
	return metadata.NewOutgoingContext(ctx, md)
}

func repo(path string) *gitaly.Repository {
	return &gitaly.Repository{StorageName: storage, RelativePath: path, GlRepository: "project-1", GlProjectPath: "group/project"}
}

// receive reads a stream to its end.
func receive[M any](stream interface{ Recv() (*M, error) }, err error) ([]*M, error) {
	if err != nil {
		return nil, err
	}
	var all []*M
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

func (c *client) advertisement(t *testing.T, request *gitaly.InfoRefsRequest) (string, error) {
	t.Helper()
	messages, err := receive(gitaly.NewSmartHTTPServiceClient(c.conn).InfoRefsUploadPack(c.ctx(t), request))
	var b strings.Builder
	for _, m := range messages {
		b.Write(m.GetData())
	}
	return b.String(), err
}

func (c *client) entry(t *testing.T, request *gitaly.TreeEntryRequest) ([]*gitaly.TreeEntryResponse, error) {
	t.Helper()
	if request.GetRepository() == nil {
		request.Repository = repo(full)
	}
	return receive(gitaly.NewCommitServiceClient(c.conn).TreeEntry(c.ctx(t), request))
}

func (c *client) listing(t *testing.T, request *gitaly.GetTreeEntriesRequest) ([]*gitaly.GetTreeEntriesResponse, error) {
	t.Helper()
	if request.GetRepository() == nil {
		request.Repository = repo(full)
	}
	return receive(gitaly.NewCommitServiceClient(c.conn).GetTreeEntries(c.ctx(t), request))
}

func (c *client) findCommit(t *testing.T, r *gitaly.Repository, revision string) (*gitaly.GitCommit, error) {
	t.Helper()
	response, err := gitaly.NewCommitServiceClient(c.conn).FindCommit(c.ctx(t), &gitaly.FindCommitRequest{Repository: r, Revision: []byte(revision)})
	return response.GetCommit(), err
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("error %v, want code %s", err, want)
	}
}

func wantStatus(t *testing.T, err error, want codes.Code, message string) {
	t.Helper()
	wantCode(t, err, want)
	if got := status.Convert(err).Message(); !strings.Contains(got, message) {
		t.Errorf("message %q, want %q in it", got, message)
	}
}

// unresolved says whether the status carries the detail that a revision or path does not resolve.
func unresolved(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*gitaly.GetTreeEntriesError); ok && e.GetResolveTree() != nil {
			return true
		}
	}
	return false
}
