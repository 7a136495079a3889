package engine_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	pb "gitlab.com/agentk/agentk/api/engine"
)

// pairOf are ConfigMaps and Secrets, half of each.
func pairOf(n int, value string) files {
	all := files{}
	for i := range n {
		name := fmt.Sprintf("o%02d", i)
		all[name+".yaml"] = configMap(name, value)
		if i%2 == 1 {
			all[name+".yaml"] = "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData: {key: \"" + value + "\"}\n"
		}
	}
	return all
}

// with returns the files with one of them replaced.
func (f files) with(path, content string) files {
	other := maps.Clone(f)
	other[path] = content
	return other
}

// objectRequests are those about the objects of pairOf, by method; lists are counted as LIST.
func objectRequests(all []request) map[string]int {
	n := map[string]int{}
	for _, r := range all {
		last := r.path[strings.LastIndex(r.path, "/")+1:]
		switch {
		case r.isWatch():
			n["WATCH"]++
		case r.method == http.MethodGet && (last == "configmaps" || last == "secrets") && !strings.Contains(r.query, "labelSelector"):
			n["LIST"]++
		case strings.HasPrefix(last, "o"):
			n[r.method]++
		}
	}
	return n
}

// once lets a test do something when the engine sends a request that matches, before it is sent.
func (r *recorder) once(match func(*http.Request) bool, do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.match, r.do = match, do
}

func TestSync_OneChangeAsksForOneObject(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(time.Hour)
	all := pairOf(20, "1")
	r.sync(p, "c1", all)
	r.recorder.take()
	f := r.sync(p, "c2", all.with("o04.yaml", configMap("o04", "2")))
	if f.GetApplied() != 1 || f.GetUnchanged() != 19 {
		t.Errorf("%v", f)
	}
	requests := r.recorder.take()
	if got, want := fmt.Sprint(objectRequests(requests)), "map[GET:1 LIST:2 PATCH:1]"; got != want {
		t.Errorf("requests %s, want %s", got, want)
	}
	// The rest is the inventory, the status and an Event.
	if len(requests) > 12 {
		t.Errorf("%d requests: %v", len(requests), requests)
	}
	if got := data(t, ns, "o04", "key"); got != "2" {
		t.Errorf("o04 has %q", got)
	}
	// What was not asked for is known all the same: the next commit costs no more.
	f = r.sync(p, "c3", all)
	if got, want := fmt.Sprint(objectRequests(r.recorder.take())), "map[GET:1 LIST:2 PATCH:1]"; got != want || f.GetUnchanged() != 19 {
		t.Errorf("requests %s, want %s; %v", got, want, f)
	}
}

func TestSync_OneChangeMendsOthersChangedByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, edit := range edits {
		p, ns := newProject(t)
		p.spec.Drift = every(time.Hour)
		p.spec.InventoryPolicy = "adopt_if_no_inventory" // without the mark, must_match would keep away
		all := pairOf(8, "git").with("a.yaml", configMap("a", "git"))
		r.sync(p, "c1", all)
		if _, err := cluster.Kubectl(t.Context(), append([]string{"-n", ns}, edit...)...); err != nil {
			t.Fatal(err)
		}
		r.recorder.take()
		f := r.sync(p, "c2", all.with("o04.yaml", configMap("o04", "2")))
		if f.GetApplied() != 2 || f.GetUnchanged() != 7 {
			t.Errorf("%s: %v", name, f)
		}
		if got := data(t, ns, "a", "key"); got != "git" {
			t.Errorf("%s: a has %q", name, got)
		}
		if n := objectRequests(r.recorder.take()); n["PATCH"] != 1 {
			t.Errorf("%s: %v", name, n)
		}
		r.send(&pb.ToEngine{Message: &pb.ToEngine_Forget{Forget: &pb.Forget{Worker: p.worker()}}})
	}
}

// What is changed after it was read, and before it would have been applied, is found by the next look.
func TestSync_ChangeByHandDuringARun(t *testing.T) {
	t.Parallel()
	for _, watch := range []bool{false, true} {
		r := newRig(t)
		p, ns := newProject(t)
		p.spec.Drift = every(quick)
		p.spec.Drift.Watch = watch
		if watch {
			p.spec.Drift.Interval = every(time.Hour).Interval
		}
		all := pairOf(8, "git")
		r.sync(p, "c1", all)
		r.recorder.once(func(req *http.Request) bool {
			return req.Method == http.MethodPatch && strings.HasSuffix(req.URL.Path, "/o04")
		}, func() {
			_, err := cluster.Kubectl(t.Context(), "-n", ns, "patch", "configmap", "o06", "-p", `{"data":{"key":"hand"}}`)
			if err != nil {
				t.Error(err)
			}
		})
		r.start(p, "c2", all.with("o04.yaml", configMap("o04", "2")))
		eventually(t, "the change is put back", func() bool {
			f := r.finished(p)
			return f.GetCommitId() == "c2" && f.GetReason() != pb.Finished_COMMIT && !f.GetNoop()
		})
		if got := data(t, ns, "o06", "key"); got != "git" {
			t.Errorf("o06 has %q", got)
		}
	}
}

// An object that another inventory has taken over is not ours any more, whatever the repository says.
func TestSync_TakenOverObjectIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(time.Hour)
	all := pairOf(8, "git")
	r.sync(p, "c1", all)
	if _, err := cluster.Kubectl(t.Context(), "-n", ns, "annotate", "--overwrite", "configmap", "o06", "config.k8s.io/owning-inventory=other"); err != nil {
		t.Fatal(err)
	}
	r.syncError(p, "c2", all.with("o04.yaml", configMap("o04", "2")), "o06", "belongs to another inventory")
}

// An object that is as it was applied, but not ready any more, is waited for, although nobody asks for it.
func TestSync_UnchangedObjectIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Drift = every(time.Hour)
	group := fmt.Sprintf("wait%d.example.com", p.id)
	all := files{"crd.yaml": definition(group), "cm.yaml": configMap("o00", "1")}
	for _, name := range []string{"one", "two", "three"} {
		all[name+".yaml"] = strings.Replace(thing(group), "name: one", "name: "+name, 1)
	}
	r.sync(p, "c1", all)
	ready := func(status string) {
		t.Helper()
		_, err := cluster.Kubectl(t.Context(), "-n", ns, "patch", "things."+group, "two", "--type=merge", "--field-manager=operator",
			"-p", `{"status":{"conditions":[{"type":"Ready","status":"`+status+`"}]}}`)
		if err != nil {
			t.Fatal(err)
		}
	}
	ready("False")
	r.recorder.take()
	r.start(p, "c2", all.with("cm.yaml", configMap("o00", "2")))
	watches := func() bool {
		r.recorder.mu.Lock()
		defer r.recorder.mu.Unlock()
		return slices.ContainsFunc(r.recorder.requests, func(q request) bool { return q.isWatch() && strings.HasSuffix(q.path, "/things") })
	}
	eventually(t, "the object is waited for", watches)
	if n := r.recorder.count(http.MethodPatch, "/things/"); n != 0 {
		t.Errorf("%d objects were applied that are as they were", n)
	}
	ready("True")
	if f := r.finished(p); f.GetError() != "" || f.GetCommitId() != "c2" || f.GetUnchanged() != 3 {
		t.Errorf("%v", f)
	}
}

// A dry run sends what it is for.
func TestSync_DryRunAsksForEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, _ := newProject(t)
	p.spec.Drift = every(time.Hour)
	all := pairOf(8, "git")
	r.sync(p, "c1", all)
	p.spec.DryRunStrategy = "server"
	r.recorder.take()
	r.sync(p, "c2", all.with("o04.yaml", configMap("o04", "2")))
	if n := objectRequests(r.recorder.take()); n["PATCH"] != 8 {
		t.Errorf("%v", n)
	}
}
