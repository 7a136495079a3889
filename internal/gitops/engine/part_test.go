package engine_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
)

// running starts a commit that waits for a Deployment which nobody makes ready, until the status says so.
func running(t *testing.T, r *rig, p *project, ns string) {
	t.Helper()
	p.spec.ReconcileTimeout = durationpb.New(time.Hour)
	r.start(p, "c1", files{"a.yaml": configMap("a", "1"), "web.yaml": deployment("web", "replicas: 1")})
	eventually(t, "the Deployment waits", func() bool {
		return document(t, p, ns).State == status.Running && exists(t, deployments, ns, "web")
	})
}

func (r *rig) forget(p *project) {
	r.t.Helper()
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Forget{Forget: &pb.Forget{Worker: p.worker()}}})
}

// A synchronisation that is cut short, and that nothing follows, does not look as if it went on.
func TestPart_StatusSaysStopped(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cut  func(*rig, *project)
		want string
	}{
		"taken out of the configuration": {(*rig).forget, "taken out of the configuration"},
		"cancelled": {func(r *rig, p *project) {
			r.send(&pb.ToEngine{Message: &pb.ToEngine_Cancel{Cancel: &pb.Cancel{Worker: p.worker()}}})
		}, "cancelled"},
		"the agent ends": {func(r *rig, _ *project) { r.close() }, "the agent ended"},
		"client-side dry run from now on": {func(r *rig, p *project) {
			p.spec.DryRunStrategy = "client"
			r.start(p, "c1", files{"a.yaml": configMap("a", "1")})
		}, "options were changed"},
		"the same by another worker": {func(r *rig, p *project) {
			r.forget(p)
			p.spec.DryRunStrategy = "client"
			r.start(p, "c1", files{"a.yaml": configMap("a", "1")})
		}, "options were changed"},
		"another namespace": {func(r *rig, p *project) {
			p.spec.DefaultNamespace = "default"
			r.start(p, "c1", files{})
		}, "options were changed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			p, ns := newProject(t)
			running(t, r, p, ns)
			test.cut(r, p)
			var d status.Document
			eventually(t, "the status says Stopped", func() bool { d = document(t, p, ns); return d.State == status.Stopped })
			if !strings.Contains(d.Error, "stopped before its end") || !strings.Contains(d.Error, test.want) || d.Finished == nil || d.Commit != "c1" {
				t.Errorf("%+v", d)
			}
			if len(d.Objects) != 2 || d.Counts.Applied+d.Counts.Skipped+d.Counts.Failed != 2 {
				t.Errorf("%d objects, %+v", len(d.Objects), d.Counts)
			}
		})
	}
}

// A run that is replaced by one that writes says nothing more.
func TestPart_NewerCommitWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	running(t, r, p, ns)
	r.start(p, "c2", files{"a.yaml": configMap("a", "2")})
	for r.finished(p).GetCommitId() != "c2" {
	}
	if d := document(t, p, ns); d.State != status.Succeeded || d.Commit != "c2" {
		t.Errorf("%+v", d)
	}
	r.forget(p)
	r.close()
	if n := r.recorder.count(http.MethodGet, "/gitops-status-"); n > 0 {
		t.Errorf("the status was looked at %d times, to say that a run was stopped", n)
	}
	if d := document(t, p, ns); d.State != status.Succeeded {
		t.Errorf("%+v", d)
	}
}

// What another engine has written since is not written over, whenever that was.
func TestPart_AnotherEngineHasWritten(t *testing.T) {
	t.Parallel()
	for name, method := range map[string]string{"before it is read": http.MethodGet, "before it is written": http.MethodPatch} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			p, ns := newProject(t)
			running(t, r, p, ns)
			others, err := json.Marshal(status.Document{State: status.Running, Commit: "c1", Reason: "commit", Started: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			looked := false
			r.recorder.mu.Lock()
			r.recorder.match = func(req *http.Request) bool {
				ours := strings.Contains(req.URL.Path, "/gitops-status-")
				looked = looked || ours && req.Method == http.MethodGet
				return ours && looked && req.Method == method
			}
			r.recorder.do = func() {
				if err := cluster.Apply(t.Context(), fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: gitops-status-%d-%d, namespace: %s}\ndata: {%s: %q}\n",
					agentID, p.id, ns, status.DataKey, others)); err != nil {
					t.Error(err)
				}
			}
			r.recorder.mu.Unlock()
			r.recorder.take()
			r.forget(p)
			eventually(t, "the status was looked at", func() bool { return r.recorder.count(http.MethodGet, "/gitops-status-") > 0 })
			r.close() // it waits for the worker
			if got := data(t, ns, fmt.Sprintf("gitops-status-%d-%d", agentID, p.id), status.DataKey); got != string(others) {
				t.Errorf("the other's status has become %s", got)
			}
		})
	}
}
