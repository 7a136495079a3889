package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/internal/gitops/selection"
	"gitlab.com/agentk/agentk/test/fakeengine"
	"gitlab.com/agentk/agentk/test/kube"
)

const limit = time.Minute

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	fakeengine.Main()
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster))
}

// files are the files of a commit.
type files map[string]string

// broken is the content of a file before which streams are always cut.
const broken = "broken"

// repo is a project with one branch.
type repo struct {
	id      int64
	head    string
	commits map[string]files
}

// kas serves repositories by the rules of the real one.
type kas struct {
	gitops.UnimplementedGitopsServer

	mu      sync.Mutex // guards all below
	repos   map[string]*repo
	errs    map[string]error // by project: the answer
	cut     string           // file before which streams are cut once
	asked   []*gitops.ObjectsToSynchronizeRequest
	changed chan struct{} // closed when something has changed
}

// push makes a commit the newest of a project.
func (k *kas) push(project, commit string, f files) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.repos[project]
	if r == nil {
		r = &repo{id: int64(len(k.repos) + 100), commits: map[string]files{}}
		k.repos[project] = r
	}
	r.head, r.commits[commit] = commit, f
	k.poke()
}

// fail makes requests for a project fail; nil: no more.
func (k *kas) fail(project string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.errs[project] = err
	k.poke()
}

// drop removes a project.
func (k *kas) drop(project string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.repos, project)
	k.poke()
}

func (k *kas) poke() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// requests are those for a project.
func (k *kas) requests(project string) []*gitops.ObjectsToSynchronizeRequest {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []*gitops.ObjectsToSynchronizeRequest
	for _, r := range k.asked {
		if r.ProjectId == project {
			all = append(all, r)
		}
	}
	return all
}

func (k *kas) GetObjectsToSynchronize(req *gitops.ObjectsToSynchronizeRequest, s grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse]) error {
	k.mu.Lock()
	k.asked = append(k.asked, proto.CloneOf(req))
	k.mu.Unlock()
	for {
		k.mu.Lock()
		r, err, changed := k.repos[req.ProjectId], k.errs[req.ProjectId], k.changed
		commit, content := "", files(nil)
		var id int64
		if r != nil {
			id, commit = r.id, r.head
			if c := req.Ref.GetCommit(); c != "" {
				commit = c
			}
			content = r.commits[commit]
		}
		k.mu.Unlock()
		switch {
		case err != nil:
			return err
		case content == nil:
			return status.Error(codes.NotFound, "GitOps: repository poll failed: not found")
		case commit != req.CommitId:
			return k.send(req, s, id, commit, content)
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-changed:
		}
	}
}

func (k *kas) send(req *gitops.ObjectsToSynchronizeRequest, s grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse], id int64, commit string, content files) error {
	names, err := chosen(req.Paths, content)
	if err != nil {
		return status.Error(codes.FailedPrecondition, "GitOps: failed to get objects to synchronize: "+err.Error())
	}
	messages := []*gitops.ObjectsToSynchronizeResponse{{Message: &gitops.ObjectsToSynchronizeResponse_Header_{
		Header: &gitops.ObjectsToSynchronizeResponse_Header{CommitId: commit, ProjectId: id},
	}}}
	for _, name := range names {
		k.mu.Lock()
		cut := name == k.cut || content[name] == broken
		if name == k.cut {
			k.cut = ""
		}
		k.mu.Unlock()
		if cut {
			for _, m := range messages {
				_ = s.Send(m)
			}
			return status.Error(codes.Unavailable, "the wire is cut")
		}
		for rest := content[name]; ; {
			n := min(len(rest), 4)
			messages = append(messages, &gitops.ObjectsToSynchronizeResponse{Message: &gitops.ObjectsToSynchronizeResponse_Object_{
				Object: &gitops.ObjectsToSynchronizeResponse_Object{Source: name, Data: []byte(rest[:n])},
			}})
			if rest = rest[n:]; rest == "" {
				break
			}
		}
	}
	messages = append(messages, &gitops.ObjectsToSynchronizeResponse{Message: &gitops.ObjectsToSynchronizeResponse_Trailer_{
		Trailer: &gitops.ObjectsToSynchronizeResponse_Trailer{},
	}})
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// chosen are the files that paths mean, each once.
func chosen(paths []*gitops.PathCF, content files) ([]string, error) {
	budget := selection.Budget{Files: 1000}
	for _, p := range paths {
		if file := p.GetFile(); file != "" {
			if _, ok := content[file]; !ok {
				return nil, fmt.Errorf("%s: no such file", file)
			}
			budget.ChooseFile(file)
			continue
		}
		glob, err := selection.ParseGlob(p.GetGlob())
		if err != nil {
			return nil, err
		}
		found := false
		for name := range content {
			found = found || glob.Dir() == "" || strings.HasPrefix(name, glob.Dir()+"/")
			if glob.Match(name) {
				if err := budget.Choose(name); err != nil {
					return nil, err
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("%s: no such directory", glob.Dir())
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(content)) {
		if !budget.ChooseFile(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// alone is an election of one pod.
type alone struct{}

func (alone) Run(ctx context.Context, lead func(context.Context) error) error { return lead(ctx) }

// bed is a module with a fake engine and a fake kas.
type bed struct {
	t        *testing.T
	kas      *kas
	module   *Module
	logs     *observer.ObservedLogs
	registry *prometheus.Registry
	notices  chan string
	stop     func()
}

func newKas(t *testing.T) (*kas, gitops.GitopsClient) {
	t.Helper()
	k := &kas{repos: map[string]*repo{}, errs: map[string]error{}, changed: make(chan struct{})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	gitops.RegisterGitopsServer(server, k)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln)
	}()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-done
	})
	return k, gitops.NewGitopsClient(conn)
}

func start(t *testing.T, change ...func(*Config)) *bed {
	t.Helper()
	k, client := newKas(t)
	return startWith(t, k, client, change...)
}

func startWith(t *testing.T, k *kas, client gitops.GitopsClient, change ...func(*Config)) *bed {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	b := &bed{t: t, kas: k, logs: logs, registry: prometheus.NewRegistry(), notices: make(chan string, 1000)}
	fast := backoff.Policy{Initial: 10 * time.Millisecond, Max: 50 * time.Millisecond, Factor: 2, ResetAfter: time.Minute}
	cfg := Config{
		Client: client, Elect: func(int64) (Elector, error) { return alone{}, nil }, Engine: fakeengine.Executable(t), Memory: 1 << 30,
		Access: func() (child.Access, error) {
			return child.Access{Kubeconfig: []byte("k"), Secrets: []string{"canary"}}, nil
		},
		Notify: func(_ context.Context, reason, message string) { b.notices <- reason + ": " + message },
		Log:    zap.New(core), Registerer: b.registry,
		timing: timing{batch: limit, shortest: 10 * time.Millisecond, values: limit, fetch: fast, engine: fast, held: fast, child: childTiming{start: limit, silence: limit, look: 10 * time.Millisecond}},
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if b.module, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.module.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(limit):
			t.Error("the module does not stop")
		}
	})
	t.Cleanup(b.stop)
	return b
}

// configure applies a gitops section.
func (b *bed) configure(g *agentcfg.GitopsCF) {
	b.t.Helper()
	cfg := &agentcfg.AgentConfiguration{AgentId: 7, ProjectPath: "group/config", Gitops: g}
	if err := b.module.Validate(cfg); err != nil {
		b.t.Fatal(err)
	}
	b.module.Apply(b.t.Context(), cfg)
}

func projects(ids ...string) *agentcfg.GitopsCF {
	g := &agentcfg.GitopsCF{}
	for _, id := range ids {
		g.ManifestProjects = append(g.ManifestProjects, &agentcfg.ManifestProjectCF{Id: &id})
	}
	return g
}

// lines are the log's with a message, of a worker or all.
func (b *bed) lines(message, worker string) []map[string]any {
	var all []map[string]any
	for _, l := range b.logs.FilterMessage(message).All() {
		fields := l.ContextMap()
		if worker == "" || fields["worker_id"] == worker {
			all = append(all, fields)
		}
	}
	return all
}

// wait waits for the n-th line of the log with a message.
func (b *bed) wait(n int, message, worker string) map[string]any {
	b.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if l := b.lines(message, worker); len(l) >= n {
			return l[n-1]
		}
	}
	for _, l := range b.logs.All() {
		b.t.Log(l.Message, l.ContextMap())
	}
	b.t.Fatalf("no line %d %q of %q", n, message, worker)
	return nil
}

// ran waits for the n-th run of a worker in the engine and compares its commit and files.
func (b *bed) ran(n int, worker, commit string, want files) {
	b.t.Helper()
	line := b.wait(n, "fake: run", worker)
	got := files{}
	if err := json.Unmarshal([]byte(line["files"].(string)), &got); err != nil {
		b.t.Fatal(err)
	}
	if line["commit_id"] != commit || !maps.Equal(got, want) {
		b.t.Errorf("run %d of %s is %v, want %s %v", n, worker, line, commit, want)
	}
}
