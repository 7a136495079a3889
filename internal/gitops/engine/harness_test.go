package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/agentcfg"
	pb "gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/gitops/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
	"gitlab.com/agentk/agentk/test/kube"
)

var cluster *kube.ControlPlane

// asEngine in the environment makes the test binary the engine's executable: what agentk starts, without another build.
const asEngine = "AGENTK_GITOPS_ENGINE"

func TestMain(m *testing.M) {
	if os.Getenv(asEngine) != "" {
		os.Exit(engine.Main())
	}
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{ControllerManager: true}, &cluster))
}

// deadline is for whatever has to happen; a loaded machine is slow.
const deadline = 4 * time.Minute

const agentID = 7

// fastRetry keeps tests short.
var fastRetry = backoff.Policy{Initial: 300 * time.Millisecond, Max: time.Second, Factor: 2, ResetAfter: time.Minute}

// request is what the API server was asked.
type request struct{ method, path, query string }

func (r request) isWatch() bool { return strings.Contains(r.query, "watch=") }

// recorder is the transport of an engine under test.
type recorder struct {
	next http.RoundTripper

	mu       sync.Mutex // guards all below
	requests []request
	// match and do are what once was told.
	match func(*http.Request) bool
	do    func()
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.requests = append(r.requests, request{req.Method, req.URL.Path, req.URL.RawQuery})
	var do func()
	if r.match != nil && r.match(req) {
		do, r.match = r.do, nil
	}
	r.mu.Unlock()
	if do != nil {
		do()
	}
	return r.next.RoundTrip(req)
}

// take returns the requests since the last call.
func (r *recorder) take() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.requests
	r.requests = nil
	return all
}

// rig is an engine in this process, and agentk's end of its pipes.
type rig struct {
	t        *testing.T
	in       *io.PipeWriter
	to       *stdio.Writer
	ended    chan error
	recorder *recorder

	mu       sync.Mutex // guards all below
	messages []*pb.FromEngine
	changed  chan struct{} // closed and replaced with every message
	read     int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return startRig(t, cluster)
}

// startRig starts an engine that works on that control plane.
func startRig(t *testing.T, cp *kube.ControlPlane) *rig {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	r := &rig{t: t, in: inW, to: stdio.NewWriter(inW), ended: make(chan error, 1), recorder: &recorder{}, changed: make(chan struct{})}
	go func() {
		err := engine.Run(t.Context(), engine.Config{
			In: inR, Out: stdio.NewWriter(outW), Version: "test", Retry: fastRetry,
			Rest: func([]byte) (*rest.Config, error) {
				config := cp.RESTConfig()
				config.QPS = -1
				config.WarningHandler = rest.NoWarnings{}
				config.Wrap(func(next http.RoundTripper) http.RoundTripper { r.recorder.next = next; return r.recorder })
				return config, nil
			},
		})
		_ = outW.Close()
		_ = inR.Close()
		r.ended <- err
	}()
	go r.listen(outR)
	t.Cleanup(func() { r.close() })
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Setup{Setup: &pb.Setup{AgentId: agentID, PodName: "pod"}}})
	r.waitFor("Ready", func(m *pb.FromEngine) bool { return m.GetReady() != nil })
	return r
}

func (r *rig) listen(out io.Reader) {
	reader := stdio.NewReader(out)
	for {
		m := &pb.FromEngine{}
		if reader.Read(m) != nil {
			return
		}
		if l := m.GetLog(); l != nil && l.GetLevel() != "debug" && testing.Verbose() {
			fmt.Fprintln(os.Stderr, l.GetLevel(), l.GetMessage(), l.GetFields())
		}
		r.mu.Lock()
		r.messages = append(r.messages, m)
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

// close closes the pipe and waits for the end of the engine.
func (r *rig) close() {
	if r.in == nil {
		return
	}
	_ = r.in.Close()
	r.in = nil
	select {
	case err := <-r.ended:
		if err != nil && !errors.Is(err, io.ErrClosedPipe) {
			r.t.Errorf("engine ended with %v", err)
		}
	case <-time.After(deadline):
		r.t.Error("engine did not end")
	}
}

func (r *rig) send(m *pb.ToEngine) {
	r.t.Helper()
	if err := r.to.Write(m); err != nil {
		r.t.Fatal(err)
	}
}

// waitFor returns the next message that matches; those before it are skipped.
func (r *rig) waitFor(what string, match func(*pb.FromEngine) bool) *pb.FromEngine {
	r.t.Helper()
	timeout := time.After(deadline)
	for {
		r.mu.Lock()
		for r.read < len(r.messages) {
			m := r.messages[r.read]
			r.read++
			if match(m) {
				r.mu.Unlock()
				return m
			}
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			r.t.Fatalf("no %s", what)
		}
	}
}

// project is a manifest project under test.
type project struct {
	id   int64
	spec *agentcfg.ManifestProjectCF
}

var (
	idMu   sync.Mutex
	lastID int64 = 100
)

// wait is how long a run waits for the cluster: its garbage collector stands still for half a minute when kinds come and go.
const wait = 2 * time.Minute

// newProject makes a namespace of its own and a project whose objects go there.
func newProject(t *testing.T) (*project, string) {
	t.Helper()
	idMu.Lock()
	lastID++
	id := lastID
	idMu.Unlock()
	namespace := fmt.Sprintf("ns-%d", id)
	if err := cluster.Apply(t.Context(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}\n"); err != nil {
		t.Fatal(err)
	}
	return &project{id: id, spec: &agentcfg.ManifestProjectCF{
		DefaultNamespace: namespace,
		ReconcileTimeout: durationpb.New(wait),
		PruneTimeout:     durationpb.New(wait),
	}}, namespace
}

// files maps paths to contents.
type files map[string]string

func (r *rig) announce(p *project, commit string, content files) {
	r.t.Helper()
	worker := fmt.Sprint(p.id)
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Begin{Begin: &pb.Begin{Worker: worker, Unit: &pb.Begin_ManifestProject{
		ManifestProject: &pb.ManifestProject{Spec: p.spec, ProjectId: p.id, CommitId: commit},
	}}}})
	r.sendFiles(worker, content)
}

func (r *rig) sendFiles(worker string, content files) {
	r.t.Helper()
	for _, path := range slices.Sorted(maps.Keys(content)) {
		r.send(&pb.ToEngine{Message: &pb.ToEngine_File{File: &pb.File{Worker: worker, Path: path, Data: []byte(content[path])}}})
	}
}

// start runs a commit without waiting for its end.
func (r *rig) start(p *project, commit string, content files) {
	r.t.Helper()
	r.announce(p, commit, content)
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: fmt.Sprint(p.id)}}})
}

// finished waits for the next report of a project.
func (r *rig) finished(p *project) *pb.Finished {
	r.t.Helper()
	return r.waitFor("Finished", func(m *pb.FromEngine) bool { return m.GetFinished().GetWorker() == fmt.Sprint(p.id) }).GetFinished()
}

// first waits for the report of a commit's first pass: one of the commit before may have been under way. A unit that is refused as a
// whole has no commit.
func (r *rig) first(p *project, commit string) *pb.Finished {
	r.t.Helper()
	return r.waitFor("Finished of commit "+commit, func(m *pb.FromEngine) bool {
		f := m.GetFinished()
		return f.GetWorker() == p.worker() && f.GetReason() == pb.Finished_COMMIT && (f.GetCommitId() == commit || f.GetCommitId() == "")
	}).GetFinished()
}

// sync runs a commit and expects it to end well.
func (r *rig) sync(p *project, commit string, content files) *pb.Finished {
	r.t.Helper()
	r.start(p, commit, content)
	f := r.first(p, commit)
	if f.GetError() != "" || f.GetCommitId() != commit {
		r.t.Fatalf("commit %s: %v", commit, f)
	}
	return f
}

// syncError runs a commit and expects an error that has all the words.
func (r *rig) syncError(p *project, commit string, content files, words ...string) *pb.Finished {
	r.t.Helper()
	r.start(p, commit, content)
	f := r.first(p, commit)
	for _, w := range words {
		if !strings.Contains(f.GetError(), w) {
			r.t.Errorf("commit %s: error %q does not have %q", commit, f.GetError(), w)
		}
	}
	return f
}

func resource(t *testing.T, gvr, namespace string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	parsed, _ := schema.ParseResourceArg(gvr)
	if parsed == nil {
		t.Fatalf("bad resource %q", gvr)
	}
	return client.Resource(*parsed).Namespace(namespace)
}

const (
	configMaps  = "configmaps.v1."
	deployments = "deployments.v1.apps"
)

// get returns an object; nil: there is none.
func get(t *testing.T, gvr, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	u, err := resource(t, gvr, namespace).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func exists(t *testing.T, gvr, namespace, name string) bool {
	t.Helper()
	return get(t, gvr, namespace, name) != nil
}

// data returns a key of a ConfigMap.
func data(t *testing.T, namespace, name, key string) string {
	t.Helper()
	u := get(t, configMaps, namespace, name)
	if u == nil {
		return ""
	}
	value, _, _ := unstructured.NestedString(u.Object, "data", key)
	return value
}

// eventually polls until it is true.
func eventually(t *testing.T, what string, true_ func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for !true_() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", deadline, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// configMap is a manifest.
func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {key: %q}\n", name, value)
}

// field returns a value inside an object; nil: there is none.
func field(u *unstructured.Unstructured, path ...string) any {
	if u == nil {
		return nil
	}
	value, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return value
}

func (p *project) worker() string { return fmt.Sprint(p.id) }

// forgetMessages drops what was read.
func (r *rig) forgetMessages() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append([]*pb.FromEngine(nil), r.messages[r.read:]...)
	r.read = 0
}

// count is how many requests of a method had that in their path.
func (r *recorder) count(method, inPath string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, req := range r.requests {
		if req.method == method && strings.Contains(req.path, inPath) {
			n++
		}
	}
	return n
}

// plainSpec is a project in the namespace default, for a cluster without controllers: nobody there deletes in the foreground.
func plainSpec() *agentcfg.ManifestProjectCF {
	return &agentcfg.ManifestProjectCF{
		DefaultNamespace:       "default",
		PrunePropagationPolicy: "background",
		ReconcileTimeout:       durationpb.New(wait),
		PruneTimeout:           durationpb.New(wait),
	}
}
