package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "gitlab.com/agentk/agentk/api/engine"
)

// A worker that is held back does nothing, and what people look at says why; what it did before stays.
func TestHeld_IsShown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(time.Hour)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1")})
	r.recorder.take()
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Begin{Begin: &pb.Begin{Worker: p.worker(), Held: "held back for a while", Unit: &pb.Begin_ManifestProject{
		ManifestProject: &pb.ManifestProject{Spec: p.spec, ProjectId: p.id, CommitId: "c2"},
	}}}})
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: p.worker()}}})
	if f := r.finished(p); f.GetError() != "held back for a while" || !f.GetUserError() || f.GetCommitId() != "c2" {
		t.Errorf("%v", f)
	}
	if !exists(t, configMaps, ns, "a") {
		t.Error("an object is gone")
	}
	for _, req := range r.recorder.take() {
		if strings.HasSuffix(req.path, "/configmaps/a") {
			t.Errorf("the object was asked for: %v", req)
		}
	}
	shown := fmt.Sprint(field(get(t, configMaps, ns, fmt.Sprintf("gitops-status-%d-%d", agentID, p.id)), "data"))
	if !strings.Contains(shown, "held back for a while") || !strings.Contains(shown, "c2") {
		t.Errorf("the status is %s", shown)
	}
	r.sync(p, "c3", files{"a.yaml": configMap("a", "3")})
}

// agentk has to know who is at work when the engine ends.
func TestWorking_IsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, _ := newProject(t)
	r.start(p, "c1", files{"a.yaml": configMap("a", "1")})
	for _, rendering := range []bool{true, false} {
		m := r.waitFor("Working", func(m *pb.FromEngine) bool { return m.GetWorking() != nil || m.GetFinished() != nil }).GetWorking()
		if m.GetWorker() != p.worker() || m.GetRendering() != rendering {
			t.Errorf("%v, want rendering %t", m, rendering)
		}
	}
	r.finished(p)
}
