// Package gitops_test holds agentk's half of GitOps and its engine together: the real ones, on a real API server.
package gitops_test

import (
	"context"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/gitops/agent"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/internal/gitops/agent/overview"
	"gitlab.com/agentk/agentk/internal/gitops/engine"
	"gitlab.com/agentk/agentk/internal/kuberest"
	"gitlab.com/agentk/agentk/test/kube"
)

const (
	limit      = 2 * time.Minute
	engineName = "agentk-gitops"
)

var cluster *kube.ControlPlane

// TestMain is the engine when it was started under its name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == engineName {
		os.Exit(engine.Main())
	}
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster))
}

// kas serves one project.
type kas struct {
	gitops.UnimplementedGitopsServer

	mu      sync.Mutex // guards all below
	commit  string
	files   map[string]string
	changed chan struct{}
}

func (k *kas) push(commit string, files map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.commit, k.files = commit, files
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *kas) GetObjectsToSynchronize(req *gitops.ObjectsToSynchronizeRequest, s grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse]) error {
	for {
		k.mu.Lock()
		commit, files, changed := k.commit, k.files, k.changed
		k.mu.Unlock()
		if commit != req.CommitId {
			return send(s, commit, files)
		}
		select {
		case <-s.Context().Done():
			return nil
		case <-changed:
		}
	}
}

func send(s grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse], commit string, files map[string]string) error {
	messages := []*gitops.ObjectsToSynchronizeResponse{{Message: &gitops.ObjectsToSynchronizeResponse_Header_{
		Header: &gitops.ObjectsToSynchronizeResponse_Header{CommitId: commit, ProjectId: 42},
	}}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		messages = append(messages, &gitops.ObjectsToSynchronizeResponse{Message: &gitops.ObjectsToSynchronizeResponse_Object_{
			Object: &gitops.ObjectsToSynchronizeResponse_Object{Source: name, Data: []byte(files[name])},
		}})
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

func startKas(t *testing.T) (*kas, gitops.GitopsClient) {
	t.Helper()
	k := &kas{changed: make(chan struct{})}
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

type alone struct{}

func (alone) Run(ctx context.Context, lead func(context.Context) error) error { return lead(ctx) }

// start runs agentk's half with the real engine.
func start(t *testing.T, client gitops.GitopsClient) *agent.Module {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	executable := filepath.Join(t.TempDir(), engineName)
	if err := os.Symlink(self, executable); err != nil {
		t.Fatal(err)
	}
	m, err := agent.New(agent.Config{
		Client: client, Elect: func(int64) (agent.Elector, error) { return alone{}, nil }, Engine: executable, Memory: 2 << 30,
		Access: func() (child.Access, error) {
			return child.NewAccess(cluster.RESTConfig(), func(string) string { return "" })
		},
		PodName: "pod", Log: zaptest.NewLogger(t), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return m
}

func api(t *testing.T) rest.Interface {
	t.Helper()
	cfg := cluster.RESTConfig()
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{TLSClientConfig: tls}
	t.Cleanup(base.CloseIdleConnections)
	c, err := kuberest.New(cfg, &http.Client{Transport: transport.NewBearerAuthRoundTripper(cfg.BearerToken, base)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func configMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {key: \"" + value + "\"}\n"
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
	}
}

// The cluster follows the repository through both processes; what was applied stays when the project is taken out.
func TestTogether(t *testing.T) {
	k, client := startKas(t)
	c := api(t)
	value := func(name string) string {
		m := &corev1.ConfigMap{}
		err := c.Get().AbsPath("/api/v1/namespaces/default/configmaps", name).Do(t.Context()).Into(m)
		if apierrors.IsNotFound(err) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		return m.Data["key"]
	}
	k.push("c1", map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	m := start(t, client)
	id := "group/manifests"
	cfg := &agentcfg.AgentConfiguration{AgentId: 7, Gitops: &agentcfg.GitopsCF{ManifestProjects: []*agentcfg.ManifestProjectCF{{
		Id: &id, PrunePropagationPolicy: "background", // there is no garbage collector here
	}}}}
	m.Apply(t.Context(), cfg)
	wait(t, "the first commit", func() bool { return value("a") == "1" && value("b") == "1" })
	k.push("c2", map[string]string{"a.yaml": configMap("a", "2")})
	wait(t, "the second commit", func() bool { return value("a") == "2" && value("b") == "" })
	wait(t, "its state", func() bool {
		all, err := overview.List(t.Context(), c, overview.Filter{AgentID: 7})
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 || all[0].Commit != "c2" || all[0].State != "Succeeded" {
			return false
		}
		project, ok := all[0].ProjectID()
		return ok && project == 42 && all[0].Unit == id
	})
	m.Apply(t.Context(), &agentcfg.AgentConfiguration{AgentId: 7})
	if value("a") != "2" {
		t.Error("what was applied did not stay")
	}
}
