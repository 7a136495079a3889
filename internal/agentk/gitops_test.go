package agentk

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/test/fakeengine"
)

// leases are those of an API server, by path.
type leases struct {
	mu  sync.Mutex // guards all below
	all map[string]map[string]any
	n   int
}

func (l *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		lease, ok := l.all[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
			return
		}
		_ = json.NewEncoder(w).Encode(lease)
		return
	}
	body, _ := io.ReadAll(r.Body)
	var lease map[string]any
	if json.Unmarshal(body, &lease) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	meta := lease["metadata"].(map[string]any)
	l.n++
	meta["resourceVersion"] = fmt.Sprint(l.n)
	path := strings.TrimSuffix(r.URL.Path, "/"+meta["name"].(string)) + "/" + meta["name"].(string)
	l.all[path] = lease
	_ = json.NewEncoder(w).Encode(lease)
}

func (l *leases) holder(path string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	spec, _ := l.all[path]["spec"].(map[string]any)
	holder, _ := spec["holderIdentity"].(string)
	return holder
}

// GetObjectsToSynchronize has one file in each project.
func (k *fakeKas) GetObjectsToSynchronize(req *gitops.ObjectsToSynchronizeRequest, s grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse]) error {
	if req.CommitId != "" {
		<-s.Context().Done()
		return nil
	}
	for _, m := range []*gitops.ObjectsToSynchronizeResponse{
		{Message: &gitops.ObjectsToSynchronizeResponse_Header_{Header: &gitops.ObjectsToSynchronizeResponse_Header{CommitId: "c1", ProjectId: 42}}},
		{Message: &gitops.ObjectsToSynchronizeResponse_Object_{Object: &gitops.ObjectsToSynchronizeResponse_Object{
			Source: "a.yaml", Data: []byte(req.ProjectId),
		}}},
		{Message: &gitops.ObjectsToSynchronizeResponse_Trailer_{Trailer: &gitops.ObjectsToSynchronizeResponse_Trailer{}}},
	} {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// With gitops in its configuration the agent leads, starts the engine, and passes on what kas sends. Both are gone when it has stopped.
func TestRun_GitOps(t *testing.T) {
	kas := startKas(t)
	id := "group/manifests"
	kas.gitops = &agentcfg.GitopsCF{ManifestProjects: []*agentcfg.ManifestProjectCF{{Id: &id}}}
	cfg, held := configWithLeases(t, kas.address)
	cfg.GitOps.Engine = fakeengine.Executable(t)
	r := start(t, cfg)
	eventually(t, "a synchronisation", func() bool { return strings.Contains(r.out.String(), `"msg":"Objects synchronized"`) })
	const lease = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/agent-7-lock"
	if got := held.holder(lease); got != "pod" {
		t.Errorf("the Lease is held by %q", got)
	}
	if out := r.out.String(); !strings.Contains(out, `"worker_id":"group/manifests","commit_id":"c1"`) || !strings.Contains(out, `{\"0:a.yaml\":\"group/manifests\"}`) {
		t.Error(out)
	}
	_, metrics := r.get("/metrics")
	for _, want := range []string{`agentk_syncs_total{result="succeeded"} 1`, "agentk_leader 1", "agentk_gitops_engine_starts_total 1"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	r.end()
	if got := held.holder(lease); got != "" {
		t.Errorf("the Lease is still held by %q", got)
	}
}

// A configuration of GitOps that is wrong is refused as a whole, with its reason.
func TestRun_GitOpsRefused(t *testing.T) {
	kas := startKas(t)
	kas.gitops = &agentcfg.GitopsCF{Charts: []*agentcfg.ChartCF{{ReleaseName: "web"}}}
	r := start(t, config(t, kas.address))
	eventually(t, "the refusal", func() bool {
		return strings.Contains(r.out.String(), `gitops: gitops.charts[0]: source.project: is required`)
	})
	if _, metrics := r.get("/metrics"); !strings.Contains(metrics, "agentk_config_valid 0") {
		t.Error("the configuration counts as valid")
	}
	r.end()
}
