package engine_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"
)

// owned is a ConfigMap with an owner's mark; empty: without.
func owned(namespace, name, owner, value string) string {
	annotations := ""
	if owner != "" {
		annotations = ", annotations: {config.k8s.io/owning-inventory: " + owner + "}"
	}
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: %s, name: %s%s}\ndata: {key: %q}\n", namespace, name, annotations, value)
}

// owner is the mark on an object.
func owner(t *testing.T, namespace, name string) string {
	t.Helper()
	return get(t, configMaps, namespace, name).GetAnnotations()["config.k8s.io/owning-inventory"]
}

// Three policies, three owners of an object that exists before it comes to git.
func TestInventoryPolicy_Apply(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for policy, applies := range map[string]map[string]bool{
		"":                      {"": false, "ours": true, "other": false},
		"must_match":            {"": false, "ours": true, "other": false},
		"adopt_if_no_inventory": {"": true, "ours": true, "other": false},
		"adopt_all":             {"": true, "ours": true, "other": true},
	} {
		for mark, want := range applies {
			p, ns := newProject(t)
			p.spec.InventoryPolicy = policy
			ours := fmt.Sprintf("%d-%d", agentID, p.id)
			if mark == "ours" {
				mark = ours
			}
			if err := cluster.Apply(t.Context(), owned(ns, "a", mark, "before")); err != nil {
				t.Fatal(err)
			}
			r.start(p, "c1", files{"a.yaml": configMap("a", "after")})
			f := r.finished(p)
			if applied := data(t, ns, "a", "key") == "after"; applied != want {
				t.Errorf("policy %q, owner %q: applied is %v: %v", policy, mark, applied, f)
			}
			if (f.GetError() == "") != want || !want && !f.GetUserError() {
				t.Errorf("policy %q, owner %q: %v", policy, mark, f)
			}
			if want && owner(t, ns, "a") != ours {
				t.Errorf("policy %q, owner %q: the object belongs to %q now", policy, mark, owner(t, ns, "a"))
			}
			if !want && owner(t, ns, "a") != mark {
				t.Errorf("policy %q, owner %q: the object belongs to %q now", policy, mark, owner(t, ns, "a"))
			}
		}
	}
}

// Three policies, three owners of an object that leaves git: only what carries the mark is deleted, whatever the policy.
func TestInventoryPolicy_Prune(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, policy := range []string{"must_match", "adopt_if_no_inventory", "adopt_all"} {
		for _, mark := range []string{"", "ours", "other"} {
			p, ns := newProject(t)
			p.spec.InventoryPolicy = policy
			r.sync(p, "c1", files{"a.yaml": configMap("a", "1")})
			args := []string{"-n", ns, "annotate", "--overwrite", "configmap", "a", "config.k8s.io/owning-inventory=" + mark}
			if mark == "" {
				args[len(args)-1] = "config.k8s.io/owning-inventory-"
			}
			if mark != "ours" {
				if _, err := cluster.Kubectl(t.Context(), args...); err != nil {
					t.Fatal(err)
				}
			}
			r.sync(p, "c2", files{})
			if gone := !exists(t, configMaps, ns, "a"); gone != (mark == "ours") {
				t.Errorf("policy %s, owner %q: deleted is %v", policy, mark, gone)
			}
			if f := r.sync(p, "c3", files{"b.yaml": configMap("b", "1")}); f.GetSkipped() != 0 {
				t.Errorf("policy %s, owner %q: the inventory still holds the object: %v", policy, mark, f)
			}
		}
	}
}

func TestInventoryPolicy_TwoUnitsDoNotFight(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	q, _ := newProject(t)
	q.spec.DefaultNamespace = ns
	q.spec.Drift = every(quick)
	p.spec.Drift = every(quick)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "p")})
	r.syncError(q, "c1", files{"a.yaml": configMap("a", "q")}, "a.yaml:1: ConfigMap "+ns+"/a", "belongs to another inventory")
	for range 3 {
		if f := r.finished(p); !f.GetNoop() {
			t.Errorf("the owner had to correct something: %v", f)
		}
	}
	if got := data(t, ns, "a", "key"); got != "p" {
		t.Errorf("a has %q", got)
	}
	// The one that never owned the object must not delete it either.
	r.sync(q, "c2", files{})
	if !exists(t, configMaps, ns, "a") {
		t.Error("an object of another inventory was deleted")
	}
}

func TestDryRun_ServerChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	p.spec.DryRunStrategy = "server"
	f := r.sync(p, "c2", files{"a.yaml": configMap("a", "2"), "c.yaml": configMap("c", "1")})
	if f.GetApplied() != 2 || f.GetPruned() != 1 {
		t.Errorf("%v", f)
	}
	if data(t, ns, "a", "key") != "1" || !exists(t, configMaps, ns, "b") || exists(t, configMaps, ns, "c") {
		t.Error("a dry run changed something")
	}
	r.syncError(p, "c3", files{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {key: [1]}\n"}, "a.yaml:1: ConfigMap "+ns+"/a")
	p.spec.DryRunStrategy = "none"
	if f := r.sync(p, "c4", files{}); f.GetPruned() != 2 {
		t.Errorf("the inventory did not survive the dry run: %v", f)
	}
}

func TestDryRun_ClientSendsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	p.spec.DryRunStrategy = "client"
	p.spec.ReconcileTimeout = durationpb.New(0)
	r.recorder.take()
	f := r.sync(p, "c2", files{"a.yaml": configMap("a", "2"), "c.yaml": configMap("c", "1")})
	if f.GetApplied() != 2 || f.GetPruned() != 1 {
		t.Errorf("%v", f)
	}
	for _, req := range r.recorder.take() {
		if req.method != "GET" {
			t.Errorf("sent %v", req)
		}
	}
	if data(t, ns, "a", "key") != "1" || !exists(t, configMaps, ns, "b") || exists(t, configMaps, ns, "c") {
		t.Error("a dry run changed something")
	}
}

func TestDryRun_OfWhatTheSameCommitMakes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, strategy := range []string{"server", "client"} {
		p, ns := newProject(t)
		p.spec.DryRunStrategy = strategy
		group := fmt.Sprintf("dry%d.example.com", p.id)
		other := ns + "-dry"
		r.sync(p, "c1", files{
			"crd.yaml": definition(group), "cr.yaml": "apiVersion: " + group + "/v1\nkind: Thing\nmetadata: {name: one}\n",
			"ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + other + "}\n",
			"a.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: " + other + "}\n",
		})
		if exists(t, "namespaces.v1.", "", other) || exists(t, "customresourcedefinitions.v1.apiextensions.k8s.io", "", "things."+group) {
			t.Errorf("%s: the dry run made something", strategy)
		}
	}
}
