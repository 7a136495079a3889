package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/api/agentcfg"
	pb "gitlab.com/agentk/agentk/api/engine"
)

func TestSync_CreateChangeDelete(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	f := r.sync(p, "c1", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	if f.GetApplied() != 2 || f.GetPruned() != 0 {
		t.Errorf("first commit: %v", f)
	}
	f = r.sync(p, "c2", files{"a.yaml": configMap("a", "2")})
	if f.GetApplied() != 1 || f.GetPruned() != 1 {
		t.Errorf("second commit: %v", f)
	}
	if got := data(t, ns, "a", "key"); got != "2" {
		t.Errorf("a has %q", got)
	}
	if exists(t, configMaps, ns, "b") {
		t.Error("b was not deleted")
	}
	f = r.sync(p, "c3", files{})
	if f.GetPruned() != 1 || exists(t, configMaps, ns, "a") {
		t.Errorf("empty commit: %v", f)
	}
}

func TestSync_PiecesOfAFileBelongTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	whole := configMap("a", "1") + "---\n" + configMap("b", "1")
	r.announce(p, "c1", nil)
	for _, piece := range []string{whole[:30], whole[30:]} {
		r.sendFiles(fmt.Sprint(p.id), files{"all.yaml": piece})
	}
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: fmt.Sprint(p.id)}}})
	if f := r.finished(p); f.GetError() != "" || !exists(t, configMaps, ns, "b") {
		t.Errorf("%v", f)
	}
}

func TestSync_DefinitionAndItsResourceInOneCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	// The garbage collector learns of a new kind after half a minute, and deletes nothing in the foreground before.
	p.spec.PrunePropagationPolicy = "background"
	group := fmt.Sprintf("g%d.example.com", p.id)
	r.sync(p, "c1", files{"cr.yaml": "apiVersion: " + group + "/v1\nkind: Thing\nmetadata: {name: one}\nspec: {size: 1}\n", "crd.yaml": definition(group)})
	if !exists(t, "things.v1."+group, ns, "one") {
		t.Error("the resource was not made")
	}
	f := r.sync(p, "c2", files{"crd.yaml": definition(group)})
	if f.GetPruned() != 1 {
		t.Errorf("%v", f)
	}
}

func definition(group string) string {
	return `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.` + group + `}
spec:
  group: ` + group + `
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`
}

func TestSync_NamespaceAndContentInOneCommit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	other := ns + "-new"
	p.spec.DefaultNamespace = other
	content := files{"0.yaml": configMap("a", "1"), "z.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + other + "}\n"}
	r.sync(p, "c1", content)
	if data(t, other, "a", "key") != "1" {
		t.Error("the content is not there")
	}
	if !exists(t, configMaps, other, fmt.Sprintf("inventory-%d-%d", agentID, p.id)) {
		t.Error("the inventory is not in the default namespace")
	}
}

func TestSync_DependsOnComesFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	first := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a-dependent\n  annotations: {config.kubernetes.io/depends-on: /namespaces/" + ns + "/ConfigMap/z-needed}\n"
	r.recorder.take()
	r.sync(p, "c1", files{"a.yaml": first, "z.yaml": configMap("z-needed", "1")})
	var order []string
	for _, req := range r.recorder.take() {
		if name := req.path[strings.LastIndex(req.path, "/")+1:]; req.method == "PATCH" && strings.Contains(name, "e") && strings.Contains("a-dependent z-needed", name) {
			order = append(order, name)
		}
	}
	if fmt.Sprint(order) != "[z-needed a-dependent]" {
		t.Errorf("applied in order %v", order)
	}
}

func TestSync_DependentOfUnreadyIsNotApplied(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.ReconcileTimeout = durationpb.New(time.Second)
	dependent := "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: dependent\n  annotations: {config.kubernetes.io/depends-on: apps/namespaces/" + ns + "/Deployment/web}\n"
	f := r.syncError(p, "c1", files{"a.yaml": dependent, "web.yaml": deployment("web", "replicas: 1")}, "web.yaml:1: Deployment "+ns+"/web: is not ready after 1s")
	if f.GetUserError() || exists(t, configMaps, ns, "dependent") {
		t.Errorf("%v", f)
	}
}

// deployment is never ready with replicas: there is no node.
func deployment(name, spec string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  %[2]s
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: c, image: none}]}
`, name, spec)
}

func TestSync_ApplyTimeMutation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	target := `apiVersion: v1
kind: ConfigMap
metadata:
  name: target
  annotations:
    config.kubernetes.io/apply-time-mutation: |
      - sourceRef: {kind: ConfigMap, name: source, namespace: ` + ns + `}
        sourcePath: $.data.key
        targetPath: $.data.copy
        token: ${it}
data: {copy: "got ${it}"}
`
	r.sync(p, "c1", files{"a.yaml": target, "source.yaml": configMap("source", "gold")})
	if got := data(t, ns, "target", "copy"); got != "got gold" {
		t.Errorf("target has %q", got)
	}
}

func TestSync_ZeroTimeoutDoesNotWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.ReconcileTimeout = durationpb.New(0)
	p.spec.PruneTimeout = durationpb.New(0)
	r.sync(p, "c1", files{"web.yaml": deployment("web", "replicas: 1"), "a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}\n"})
	f := r.sync(p, "c2", files{"web.yaml": deployment("web", "replicas: 1")})
	if f.GetPruned() != 1 || get(t, configMaps, ns, "held").GetDeletionTimestamp() == nil {
		t.Errorf("%v", f)
	}
	_, err := cluster.Kubectl(t.Context(), "-n", ns, "patch", "configmap", "held", "--type=json", `-p=[{"op":"remove","path":"/metadata/finalizers"}]`)
	if err != nil {
		t.Fatal(err)
	}
}

func TestSync_FieldOfAnAutoscalerIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.ReconcileTimeout = durationpb.New(0)
	p.spec.Drift = &agentcfg.DriftCF{Interval: durationpb.New(300 * time.Millisecond)}
	r.sync(p, "c1", files{"web.yaml": deployment("web", "paused: true")})
	if _, err := cluster.Kubectl(t.Context(), "-n", ns, "scale", "deployment", "web", "--replicas=3"); err != nil {
		t.Fatal(err)
	}
	if f := r.finished(p); !f.GetNoop() {
		t.Errorf("the scaled Deployment was taken for drift: %v", f)
	}
	r.sync(p, "c2", files{"web.yaml": deployment("web", "minReadySeconds: 5")})
	web := get(t, deployments, ns, "web")
	if n := field(web, "spec", "replicas"); n != int64(3) {
		t.Errorf("replicas is %v", n)
	}
	if n := field(web, "spec", "minReadySeconds"); n != int64(5) {
		t.Errorf("minReadySeconds is %v", n)
	}
}

func TestSync_NewerCommitCancels(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.ReconcileTimeout = durationpb.New(time.Hour)
	r.start(p, "c1", files{"web.yaml": deployment("web", "replicas: 1")})
	eventually(t, "the Deployment exists", func() bool { return exists(t, deployments, ns, "web") })
	r.start(p, "c2", files{"a.yaml": configMap("a", "1")})
	if f := r.finished(p); !f.GetCancelled() || f.GetCommitId() != "c1" {
		t.Errorf("first: %v", f)
	}
	if f := r.finished(p); f.GetCommitId() != "c2" || f.GetError() != "" || f.GetPruned() != 1 {
		t.Errorf("second: %v", f)
	}
	if exists(t, deployments, ns, "web") {
		t.Error("the Deployment of the cancelled commit stays")
	}
}

func TestSync_CancelAndForget(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.ReconcileTimeout = durationpb.New(time.Hour)
	r.start(p, "c1", files{"web.yaml": deployment("web", "replicas: 1")})
	eventually(t, "the Deployment exists", func() bool { return exists(t, deployments, ns, "web") })
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Cancel{Cancel: &pb.Cancel{Worker: fmt.Sprint(p.id)}}})
	if f := r.finished(p); !f.GetCancelled() {
		t.Errorf("%v", f)
	}
	r.sync(p, "c2", files{"a.yaml": configMap("a", "1")})
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Forget{Forget: &pb.Forget{Worker: fmt.Sprint(p.id)}}})
	r.sync(p, "c3", files{"a.yaml": configMap("a", "2")})
	if data(t, ns, "a", "key") != "2" {
		t.Error("no synchronisation after Forget")
	}
}

func TestSync_InventoryOfTheRepository(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	inventory := func(name string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n  labels: {cli-utils.sigs.k8s.io/inventory-id: own-" + ns + "}\n"
	}
	r.sync(p, "c1", files{"inv.yaml": inventory("mine"), "a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	if data := field(get(t, configMaps, ns, "mine"), "data"); len(data.(map[string]any)) != 2 {
		t.Errorf("inventory holds %v", data)
	}
	if exists(t, configMaps, ns, fmt.Sprintf("inventory-%d-%d", agentID, p.id)) {
		t.Error("the default inventory was made, too")
	}
	r.syncError(p, "c2", files{"inv.yaml": inventory("mine"), "inv2.yaml": inventory("yours")}, "inv2.yaml:1: ConfigMap "+ns+"/yours", "there can be one")
	if f := r.sync(p, "c3", files{"inv.yaml": inventory("mine"), "a.yaml": configMap("a", "1")}); f.GetPruned() != 1 {
		t.Errorf("%v", f)
	}
}

func TestSync_StopsOrGoesOnAtAFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, onError := range []string{"", "continue"} {
		p, ns := newProject(t)
		p.spec.OnError = onError
		r.sync(p, "c0", files{"old.yaml": configMap("old", "1")})
		bad := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndata: {key: [1]}\n"
		content := files{"bad.yaml": bad, "after.yaml": configMap("zafter", "1")}
		f := r.syncError(p, "c1", content, "bad.yaml:1: ConfigMap "+ns+"/bad: ")
		goesOn := onError == "continue"
		if got := exists(t, configMaps, ns, "zafter"); got != goesOn {
			t.Errorf("%q: the object after the bad one was applied: %v", onError, got)
		}
		if exists(t, configMaps, ns, "old") == goesOn {
			t.Errorf("%q: the object that is not in git any more was treated wrongly", onError)
		}
		if f.GetFailed() != 1 {
			t.Errorf("%q: %v", onError, f)
		}
	}
}

func TestSync_WhatCannotBeReadPrunesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, onError := range []string{"stop", "continue"} {
		p, ns := newProject(t)
		p.spec.OnError = onError
		r.sync(p, "c0", files{"old.yaml": configMap("old", "1")})
		for name, c := range map[string]struct {
			content files
			user    bool
			words   []string
		}{
			"yaml":         {files{"bad.yaml": "a: [", "a.yaml": configMap("a", "1")}, true, []string{"bad.yaml"}},
			"unknown kind": {files{"x.yaml": "apiVersion: no.example.com/v1\nkind: Nothing\nmetadata: {name: x}\n"}, false, []string{"x.yaml:1", "Nothing", "does not know"}},
			"no name":      {files{"x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x-}\n"}, true, []string{"x.yaml:1", "generateName"}},
			"twice":        {files{"x.yaml": configMap("x", "1") + "---\n" + configMap("x", "2")}, true, []string{"x.yaml:", "ConfigMap " + ns + "/x", "is defined before, in x.yaml:1"}},
			"namespace":    {files{"x.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, namespace: other}\n"}, true, []string{"x.yaml:1", "has no namespaces"}},
		} {
			f := r.syncError(p, "c1", c.content, c.words...)
			if f.GetUserError() != c.user {
				t.Errorf("%s, %s: %v", onError, name, f)
			}
			if !exists(t, configMaps, ns, "old") {
				t.Fatalf("%s, %s: pruned although something could not be read", onError, name)
			}
		}
		if f := r.sync(p, "c2", files{}); f.GetPruned() == 0 || exists(t, configMaps, ns, "old") {
			t.Errorf("%s: the inventory lost track: %v", onError, f)
		}
	}
}

func TestSync_RetriesWhatMayMendItself(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	group := fmt.Sprintf("late%d.example.com", p.id)
	thing := files{"cr.yaml": "apiVersion: " + group + "/v1\nkind: Thing\nmetadata: {name: one}\n"}
	r.syncError(p, "c1", thing, "does not know")
	if err := cluster.Apply(t.Context(), definition(group)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a retry succeeds", func() bool { f := r.finished(p); return f.GetError() == "" && f.GetReason() == pb.Finished_RETRY })
	if !exists(t, "things.v1."+group, ns, "one") {
		t.Error("the resource was not made")
	}
}

func TestSync_ObjectKeptOnRemoval(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	keep := func(annotation string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept-" + annotation[len(annotation)-4:] + ", annotations: {" + annotation + "}}\n"
	}
	r.sync(p, "c1", files{
		"a.yaml": keep("cli-utils.sigs.k8s.io/on-remove: keep"), "b.yaml": keep("client.lifecycle.config.k8s.io/deletion: detach"), "c.yaml": configMap("c", "1"),
	})
	if f := r.sync(p, "c2", files{}); f.GetPruned() != 1 || f.GetSkipped() != 2 {
		t.Errorf("%v", f)
	}
	for _, name := range []string{"kept-keep", "kept-tach"} {
		u := get(t, configMaps, ns, name)
		if u == nil {
			t.Errorf("%s was deleted", name)
			continue
		}
		if owner := u.GetAnnotations()["config.k8s.io/owning-inventory"]; owner != "" {
			t.Errorf("%s still belongs to %s", name, owner)
		}
	}
	if f := r.sync(p, "c3", files{}); f.GetSkipped() != 0 {
		t.Errorf("what was kept is still in the inventory: %v", f)
	}
}

func TestSync_PrunePropagation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for policy, childStays := range map[string]bool{"orphan": true, "background": false, "foreground": false, "": false} {
		p, ns := newProject(t)
		p.spec.PrunePropagationPolicy = policy
		p.spec.ReconcileTimeout = durationpb.New(0)
		r.sync(p, "c1", files{"web.yaml": deployment("web", "replicas: 0")})
		replicaSets := func() int {
			list, err := resource(t, "replicasets.v1.apps", ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(list.Items)
		}
		eventually(t, "the Deployment has a ReplicaSet", func() bool { return replicaSets() == 1 })
		r.sync(p, "c2", files{})
		if exists(t, deployments, ns, "web") {
			t.Errorf("%q: the Deployment is still there", policy)
		}
		switch {
		case childStays && replicaSets() != 1:
			t.Errorf("%q: the ReplicaSet is gone", policy)
		case !childStays:
			eventually(t, policy+": the ReplicaSet is gone", func() bool { return replicaSets() == 0 })
		}
	}
}

func TestSync_PruneOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.PruneOneof = &agentcfg.ManifestProjectCF_Prune{Prune: false}
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1")})
	if f := r.sync(p, "c2", files{}); f.GetPruned() != 0 || !exists(t, configMaps, ns, "a") {
		t.Errorf("%v", f)
	}
}
