package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/gitaly"
	"gitlab.com/agentk/agentk/internal/standalone"
	"gitlab.com/agentk/agentk/internal/store"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience is when a test gives up waiting for what must happen.
	patience = time.Minute
	ownToken = "glagent-canary-own"
	// strangerToken is that of an agent of another project.
	strangerToken = "glagent-canary-stranger"
	secret        = "abc123secret"
)

var testLimits = Limits{FileBytes: 1000, TotalBytes: 3000, Paths: 5, Files: 50}

// world is repositories, one of the two backends over them, and the service with a client, over a real connection.
type world struct {
	*testing.T
	root     string
	store    *store.Memory
	server   *Server
	client   gitops.GitopsClient
	logs     *observer.ObservedLogs
	registry *prometheus.Registry
	syncs    func() int
	// gitaly is nil beside the standalone backend, and the other way around.
	gitaly     *double.Server
	standalone *standalone.Backend

	mu   sync.Mutex
	gone map[string]bool // projects that GitLab does not have any more
}

// backends runs a test with each backend.
func backends(t *testing.T, test func(w *world), change ...func(*Config)) {
	t.Helper()
	for name, newBackend := range map[string]func(*world, *Config){"standalone": (*world).newStandalone, "gitaly": (*world).newGitaly} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newWorld(t, newBackend, change...))
		})
	}
}

func newWorld(t *testing.T, newBackend func(*world, *Config), change ...func(*Config)) *world {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	memory := store.NewMemory(store.MemoryConfig{})
	w := &world{T: t, root: t.TempDir(), store: memory, logs: logs, registry: prometheus.NewRegistry(), gone: map[string]bool{}}
	for _, project := range []string{"infra/agents", "infra/public", "infra/granted", "other/agents"} {
		w.init(project)
	}
	var mu sync.Mutex
	syncs := 0
	cfg := Config{
		Auth: agents{}, Token: bearerOf, AgeLimit: noAgeLimit,
		Pushes: memory, PollPeriod: time.Hour, Limits: testLimits,
		OnSync: func() { mu.Lock(); defer mu.Unlock(); syncs++ },
		Log:    zap.New(core), Registerer: w.registry,
	}
	w.syncs = func() int { mu.Lock(); defer mu.Unlock(); return syncs }
	newBackend(w, &cfg)
	for _, c := range change {
		c(&cfg)
	}
	var err error
	w.server, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.serve()
	return w
}

func (w *world) serve() {
	w.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	server := grpc.NewServer()
	gitops.RegisterGitopsServer(server, w.server)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	running.Go(func() { _ = w.server.Run(ctx) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.Fatal(err)
	}
	w.client = gitops.NewGitopsClient(conn)
	w.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		cancel()
		running.Wait()
	})
}

func (w *world) newStandalone(cfg *Config) {
	w.Helper()
	b, err := standalone.New(standalone.Config{
		Parse: func([]byte) (*agentcfg.ConfigurationFile, error) { return &agentcfg.ConfigurationFile{}, nil },
		File: &kascfg.StandaloneCF{
			RepositoriesDir: w.root,
			Projects: []*kascfg.StandaloneProjectCF{
				{Id: 10, Path: "infra/agents"},
				{Id: 11, Path: "infra/public", Visibility: "public"},
				{Id: 12, Path: "infra/granted", Visibility: "internal"},
				{Id: 20, Path: "other/agents", Visibility: "private"},
			},
			Agents: []*kascfg.StandaloneAgentCF{
				{Id: 7, Name: "own", Project: "infra/agents", TokenSha256: []string{standalone.HashToken(ownToken)}, GitopsProjects: []string{"infra/granted"}},
				{Id: 8, Name: "stranger", Project: "other/agents", TokenSha256: []string{standalone.HashToken(strangerToken)}},
			},
		},
		OnPush: func(project string) { _ = w.store.Publish(context.Background(), project) },
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	w.Cleanup(func() { cancel(); <-done })
	w.standalone = b
	cfg.Projects, cfg.Repository, cfg.Changes = b, b, b
}

func (w *world) newGitaly(cfg *Config) {
	w.Helper()
	var err error
	w.gitaly, err = double.Start(double.Config{Storages: map[string]string{"default": w.root}, Token: secret})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(w.gitaly.Stop)
	client, err := gitaly.New(gitaly.Config{
		Global: gitaly.RateLimit{PerSecond: 1e6, Burst: 1e6}, PerServer: gitaly.RateLimit{PerSecond: 1e6, Burst: 1e6}, Log: zap.NewNop(),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(client.Close)
	cfg.Projects, cfg.Repository = w, client
	cfg.ProjectTTL, cfg.ProjectErrorTTL = 5*time.Minute, time.Minute
}

// Project decides as GitLab does.
func (w *world) Project(_ context.Context, token string, agent backend.Agent, id string) (backend.Project, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	readable := id == agent.Project.Path || id == "infra/public" || id == "infra/granted" && token == ownToken
	if w.gone[id] || !readable {
		return backend.Project{}, fault.New(fault.NotFound, fault.GitLab, "project not found")
	}
	return backend.Project{
		ID: int64(len(id)), Path: id, DefaultBranch: "main",
		Gitaly:     &entity.GitalyInfo{Address: w.gitaly.TCPAddress(), Token: secret},
		Repository: &entity.GitalyRepository{StorageName: "default", RelativePath: id + ".git", GlProjectPath: id},
	}, nil
}

// agents are told by their tokens.
type agents struct{}

func bearerOf(ctx context.Context) string {
	return strings.TrimPrefix(strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ""), "Bearer ")
}

func (agents) Agent(ctx context.Context) (backend.Agent, error) {
	switch bearerOf(ctx) {
	case ownToken:
		return backend.Agent{ID: 7, Name: "own", Project: backend.Project{ID: 10, Path: "infra/agents"}}, nil
	case strangerToken:
		return backend.Agent{ID: 8, Name: "stranger", Project: backend.Project{ID: 20, Path: "other/agents"}}, nil
	}
	return backend.Agent{}, fault.New(fault.Unauthenticated, fault.Agent, "unauthenticated")
}

func (w *world) git(project, stdin string, args ...string) string {
	w.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir", filepath.Join(w.root, project+".git")}, args...)...)
	cmd.Env = []string{
		"HOME=" + os.DevNull, "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@corp.test",
	}
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.Fatalf("git %v: %v: %s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func (w *world) init(project string) {
	w.Helper()
	if err := os.MkdirAll(filepath.Join(w.root, project+".git"), 0o700); err != nil {
		w.Fatal(err)
	}
	w.git(project, "", "init", "--quiet", "--bare", "--initial-branch=main")
}

func add(path, content string) string { return put("100644", path, content) }

func put(mode, path, content string) string {
	return fmt.Sprintf("M %s inline %q\ndata %d\n%s\n", mode, path, len(content), content)
}

// commit commits changes on top of a branch and says that there was a push. It returns the commit.
func (w *world) commit(project, branch string, changes ...string) string {
	w.Helper()
	from := ""
	ref := "refs/heads/" + branch
	if before := w.git(project, "", "for-each-ref", "--format=%(objectname)", ref); before != "" {
		from = "from " + before + "\n"
	}
	w.git(project, "commit "+ref+"\ncommitter T <t@example.com> 1700000000 +0000\ndata 1\nc\n"+from+strings.Join(changes, "")+"\n", "fast-import", "--quiet")
	w.pushed(project)
	return w.git(project, "", "rev-parse", ref)
}

// pushed does what GitLab does at the end of a push. The standalone backend finds out by itself.
func (w *world) pushed(project string) {
	if w.gitaly == nil {
		return
	}
	w.gitaly.Invalidate("default", project+".git")
	_ = w.store.Publish(context.Background(), project)
}

// call is an open stream.
type call struct {
	*world
	stream grpc.ServerStreamingClient[gitops.ObjectsToSynchronizeResponse]
	cancel context.CancelFunc
}

// globs is a request for the files of the agent's own project.
func globs(patterns ...string) *gitops.ObjectsToSynchronizeRequest {
	req := &gitops.ObjectsToSynchronizeRequest{ProjectId: "infra/agents"}
	for _, p := range patterns {
		req.Paths = append(req.Paths, &gitops.PathCF{Path: &gitops.PathCF_Glob{Glob: p}})
	}
	return req
}

func byName(names ...string) *gitops.ObjectsToSynchronizeRequest {
	req := globs()
	for _, n := range names {
		req.Paths = append(req.Paths, &gitops.PathCF{Path: &gitops.PathCF_File{File: n}})
	}
	return req
}

func (w *world) open(token string, req *gitops.ObjectsToSynchronizeRequest) *call {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	w.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	stream, err := w.client.GetObjectsToSynchronize(ctx, req)
	if err != nil {
		w.Fatal(err)
	}
	return &call{world: w, stream: stream, cancel: cancel}
}

// received is one whole batch.
type received struct {
	commit  string
	project int64
	files   map[string]string
	order   []string
}

// batch reads a stream to its end and holds it to the order of messages. The error is that of the stream.
func (s *call) batch() (received, error) {
	s.Helper()
	first, err := s.stream.Recv()
	if err != nil {
		return received{}, err
	}
	header := first.GetHeader()
	if header == nil || header.CommitId == "" {
		s.Fatalf("first message %v", first)
	}
	r := received{commit: header.CommitId, project: header.ProjectId, files: map[string]string{}}
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return r, err
		}
		if m.GetTrailer() != nil {
			break
		}
		o := m.GetObject()
		if o.GetSource() == "" || len(o.GetData()) > 128<<10 {
			s.Fatalf("message of %d bytes for %q", len(o.GetData()), o.GetSource())
		}
		if len(r.order) == 0 || r.order[len(r.order)-1] != o.Source {
			if _, twice := r.files[o.Source]; twice {
				s.Fatalf("%s comes twice", o.Source)
			}
			r.order = append(r.order, o.Source)
		}
		r.files[o.Source] += string(o.Data)
	}
	_, err = s.stream.Recv()
	if !errors.Is(err, io.EOF) {
		s.Fatalf("after the trailer: %v", err)
	}
	return r, nil
}

// want wants one batch with these files and contents, in pairs.
func (w *world) want(req *gitops.ObjectsToSynchronizeRequest, commit string, files ...string) {
	w.Helper()
	w.open(ownToken, req).want(commit, files...)
}

func (s *call) want(commit string, files ...string) {
	s.Helper()
	got, err := s.batch()
	if err != nil || got.commit != commit {
		s.Fatalf("got commit %q, %v; want %q", got.commit, err, commit)
	}
	want := map[string]string{}
	for i := 0; i < len(files); i += 2 {
		want[files[i]] = files[i+1]
	}
	if diff := cmp.Diff(want, got.files); diff != "" {
		s.Errorf("files (-want +got)\n%s", diff)
	}
}

// refused wants a status before anything else.
func (w *world) refused(req *gitops.ObjectsToSynchronizeRequest, code codes.Code, texts ...string) {
	w.Helper()
	w.open(ownToken, req).refused(code, texts...)
}

func (s *call) refused(code codes.Code, texts ...string) {
	s.Helper()
	got, err := s.batch()
	if status.Code(err) != code {
		s.Fatalf("got commit %q, %v; want %s", got.commit, err, code)
	}
	if got.commit != "" {
		s.Errorf("a part of a batch came before %v", err)
	}
	for _, text := range texts {
		if !strings.Contains(status.Convert(err).Message(), text) {
			s.Errorf("%q does not say %q", status.Convert(err).Message(), text)
		}
	}
	for _, canary := range []string{ownToken, strangerToken, secret, s.root} {
		if strings.Contains(err.Error(), canary) {
			s.Errorf("%q tells %q", err, canary)
		}
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("still not: %s", what)
		}
	}
}

// counted is how many files were read from a source.
func (w *world) counted(source string) int {
	return int(testutil.ToFloat64(w.server.metrics.files.WithLabelValues(source)))
}

// noAgeLimit lets streams live for ever.
func noAgeLimit(ctx context.Context) context.Context { return ctx }
