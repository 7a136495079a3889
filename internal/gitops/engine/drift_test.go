package engine_test

import (
	"fmt"
	"maps"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"gitlab.com/agentk/agentk/api/agentcfg"
	pb "gitlab.com/agentk/agentk/api/engine"
)

// quick is a drift interval for tests.
const quick = 200 * time.Millisecond

func every(d time.Duration) *agentcfg.DriftCF {
	return &agentcfg.DriftCF{Interval: durationpb.New(d)}
}

// edits are changes by hand, with kubectl.
var edits = map[string][]string{
	"value changed":            {"patch", "configmap", "a", "-p", `{"data":{"key":"hand"}}`},
	"field removed":            {"patch", "configmap", "a", "--type=json", "-p", `[{"op":"remove","path":"/data/key"}]`},
	"under the agent's name":   {"patch", "configmap", "a", "--field-manager=agentk", "-p", `{"data":{"key":"hand"}}`},
	"mark removed":             {"annotate", "configmap", "a", "config.k8s.io/owning-inventory-"},
	"managed fields forgotten": {"patch", "configmap", "a", "--type=json", "-p", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]},{"op":"replace","path":"/data/key","value":"hand"}]`},
	"deleted":                  {"delete", "configmap", "a"},
}

func TestDrift_IntervalPutsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, edit := range edits {
		p, ns := newProject(t)
		p.spec.Drift = every(quick)
		// Without the mark, must_match would keep away.
		p.spec.InventoryPolicy = "adopt_if_no_inventory"
		r.sync(p, "c1", files{"a.yaml": configMap("a", "git"), "b.yaml": configMap("b", "git")})
		if _, err := cluster.Kubectl(t.Context(), append([]string{"-n", ns}, edit...)...); err != nil {
			t.Fatal(err)
		}
		var f *pb.Finished
		eventually(t, name+" is corrected", func() bool { f = r.finished(p); return !f.GetNoop() })
		if f.GetError() != "" || f.GetReason() != pb.Finished_INTERVAL || f.GetApplied() != 1 || f.GetUnchanged() != 1 {
			t.Errorf("%s: %v", name, f)
		}
		if got := data(t, ns, "a", "key"); got != "git" {
			t.Errorf("%s: a has %q", name, got)
		}
		if f := r.finished(p); !f.GetNoop() {
			t.Errorf("%s: corrected twice: %v", name, f)
		}
		r.send(&pb.ToEngine{Message: &pb.ToEngine_Forget{Forget: &pb.Forget{Worker: p.worker()}}})
	}
}

func TestDrift_WatchPutsBackAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, edit := range edits {
		p, ns := newProject(t)
		p.spec.Drift = every(time.Hour)
		p.spec.Drift.Watch = true
		p.spec.InventoryPolicy = "adopt_if_no_inventory"
		r.sync(p, "c1", files{"a.yaml": configMap("a", "git"), "b.yaml": configMap("b", "git")})
		if _, err := cluster.Kubectl(t.Context(), append([]string{"-n", ns}, edit...)...); err != nil {
			t.Fatal(err)
		}
		if f := r.finished(p); f.GetReason() != pb.Finished_WATCH || f.GetError() != "" {
			t.Errorf("%s: %v", name, f)
		}
		if got := data(t, ns, "a", "key"); got != "git" {
			t.Errorf("%s: a has %q", name, got)
		}
	}
}

// What others add to an object, or do to other objects, is none of the engine's business.
func TestDrift_WatchIgnoresWhatIsNotApplied(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(time.Hour)
	p.spec.Drift.Watch = true
	r.sync(p, "c1", files{"a.yaml": configMap("a", "git")})
	for _, args := range [][]string{
		{"patch", "configmap", "a", "-p", `{"data":{"other":"hand"}}`},
		{"create", "configmap", "b"},
		{"delete", "configmap", "b"},
		{"annotate", "configmap", "a", "note=hand"},
		{"delete", "configmap", "a"},
	} {
		if _, err := cluster.Kubectl(t.Context(), append([]string{"-n", ns}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	// The first report is that of the deletion.
	if f := r.finished(p); f.GetReason() != pb.Finished_WATCH || f.GetApplied() != 1 {
		t.Errorf("%v", f)
	}
}

func TestDrift_NoopPassIsOneListPerKind(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	other := ns + "-2"
	p.spec.Drift = every(quick)
	in := func(namespace string, manifest string) string {
		return strings.Replace(manifest, "metadata: {", "metadata: {namespace: "+namespace+", ", 1)
	}
	r.sync(p, "c1", files{
		"ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + other + "}\n",
		"a.yaml":  configMap("a", "1"), "b.yaml": configMap("b", "1"), "c.yaml": in(other, configMap("c", "1")),
		"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n",
		"d.yaml": deployment("web", "replicas: 0"),
	})
	r.finished(p)
	want := map[string]int{"namespaces": 1, "configmaps": 1, "secrets": 1, "deployments": 1}
	// On a busy machine a pass may have begun, or be over, before the requests of the one before it are taken.
	eventually(t, "a pass is one list of each kind", func() bool {
		r.recorder.take()
		f := r.finished(p)
		if !f.GetNoop() || f.GetUnchanged() != 6 {
			t.Fatalf("%v", f)
		}
		lists := map[string]int{}
		for _, req := range r.recorder.take() {
			if req.method != "GET" || req.isWatch() {
				t.Fatalf("a pass that found nothing sent %v", req)
			}
			lists[req.path[strings.LastIndex(req.path, "/")+1:]]++
		}
		return maps.Equal(lists, want)
	})
}

func TestDrift_PassesDoNotGrowTheHeap(t *testing.T) {
	r := newRig(t)
	p, _ := newProject(t)
	p.spec.Drift = every(15 * time.Millisecond)
	content := files{}
	for i := range 50 {
		content[fmt.Sprintf("%d.yaml", i)] = configMap(fmt.Sprintf("cm-%d", i), strings.Repeat("v", 1000))
	}
	r.sync(p, "c1", content)
	// least is the smallest heap seen after each of n passes: a pass under way holds the lists it reads.
	least := func(n int) uint64 {
		var m runtime.MemStats
		least := uint64(math.MaxUint64)
		for range n {
			if f := r.finished(p); !f.GetNoop() {
				t.Fatalf("%v", f)
			}
			r.recorder.take()
			r.forgetMessages()
			runtime.GC()
			runtime.ReadMemStats(&m)
			least = min(least, m.HeapAlloc)
		}
		return least
	}
	least(60)
	half := least(40)
	least(60)
	if end := least(40); end > half+half/20 {
		t.Errorf("the heap grew from %d to %d bytes in the second half of 200 passes", half, end)
	}
}

func TestDrift_DefinitionDeletedByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(quick)
	group := fmt.Sprintf("gone%d.example.com", p.id)
	r.sync(p, "c1", files{"crd.yaml": definition(group), "cr.yaml": thing(group)})
	if _, err := cluster.Kubectl(t.Context(), "delete", "crd", "things."+group); err != nil {
		t.Fatal(err)
	}
	var f *pb.Finished
	eventually(t, "the definition is back", func() bool { f = r.finished(p); return !f.GetNoop() && f.GetError() == "" })
	if !exists(t, "things.v1."+group, ns, "one") {
		t.Errorf("the resource is not back: %v", f)
	}
}

func thing(group string) string {
	return "apiVersion: " + group + "/v1\nkind: Thing\nmetadata: {name: one}\n"
}

func TestSync_InventoryKeepsWhatCouldNotBeLookedAt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.PrunePropagationPolicy = "background"
	group := fmt.Sprintf("away%d.example.com", p.id)
	if err := cluster.Apply(t.Context(), definition(group)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the resource is applied", func() bool {
		r.start(p, "c1", files{"cr.yaml": thing(group)})
		return r.finished(p).GetError() == ""
	})
	if _, err := cluster.Kubectl(t.Context(), "delete", "crd", "things."+group); err != nil {
		t.Fatal(err)
	}
	// An unknown kind makes the engine look again at what the API server serves.
	r.syncError(p, "c2", files{"x.yaml": "apiVersion: no.example.com/v1\nkind: Nothing\nmetadata: {name: x}\n"}, "does not know")
	r.sync(p, "c3", files{"a.yaml": configMap("a", "1")})
	held := fmt.Sprint(field(get(t, configMaps, ns, fmt.Sprintf("inventory-%d-%d", agentID, p.id)), "data"))
	if !strings.Contains(held, "one_"+group) {
		t.Errorf("the inventory holds %s", held)
	}
}

// The set of owned fields stays the same here: only the values tell.
func TestDrift_AppliedByHandUnderTheAgentsName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(quick)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "git")})
	u := get(t, configMaps, ns, "a")
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	if err := unstructured.SetNestedField(u.Object, "hand", "data", "key"); err != nil {
		t.Fatal(err)
	}
	if _, err := resource(t, configMaps, ns).Apply(t.Context(), "a", u, metav1.ApplyOptions{FieldManager: "agentk", Force: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value is put back", func() bool { r.finished(p); return data(t, ns, "a", "key") == "git" })
}
