package gitops

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
)

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		name, options     string
		deployment, child bool // what is left after its removal from git
	}{
		{"off", "prune: false", true, true},
		{"orphan", "prune_propagation_policy: orphan", false, true},
		{"background", "prune_propagation_policy: background", false, false},
		{"foreground", "prune_propagation_policy: foreground", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := shared.follow(t, c.options, files{"web.yaml": deployment("web", "replicas: 0"), "keep.yaml": configMap("keep", "1")})
			u.done(u.git("rev-parse", "HEAD"))
			eventually(t, func() string { return wrongChildren(u, true) })
			d := u.sync(files{"web.yaml": ""})
			if got := u.object(deployments, "web") != nil; got != c.deployment {
				t.Errorf("Deployment there: %t; %+v", got, d)
			}
			eventually(t, func() string { return wrongChildren(u, c.child) })
			if u.value("keep") != "1" {
				t.Error("what is in git is gone")
			}
		})
	}
}

func wrongChildren(u *unit, want bool) string {
	list, err := resource(u.t, u.bed.cp, replicaSets, u.namespace).List(u.t.Context(), metav1.ListOptions{})
	if err != nil || (len(list.Items) > 0) != want {
		return fmt.Sprintf("ReplicaSets there: %t, error %v", !want, err)
	}
	return ""
}

func TestInventoryPolicy(t *testing.T) {
	const nobody, other = "", "some-other"
	for _, c := range []struct {
		policy, owner string
		taken         bool
	}{
		{"must_match", nobody, false},
		{"must_match", other, false},
		{"adopt_if_no_inventory", nobody, true},
		{"adopt_if_no_inventory", other, false},
		{"adopt_all", nobody, true},
		{"adopt_all", other, true},
	} {
		t.Run(c.policy+" owner "+c.owner, func(t *testing.T) {
			t.Parallel()
			u := shared.newUnit(t)
			there := configMap("a", "by hand")
			if c.owner != nobody {
				there = annotated("a", "config.k8s.io/owning-inventory", c.owner)
			}
			if err := cluster.Apply(t.Context(), strings.Replace(there, "{name: a", "{namespace: "+u.namespace+", name: a", 1)); err != nil {
				t.Fatal(err)
			}
			before := u.value("a")
			commit := u.push(files{"a.yaml": configMap("a", "git")})
			u.configure("inventory_policy: " + c.policy)
			want, state := before, status.Failed
			if c.taken {
				want, state = "git", status.Succeeded
			}
			d := u.reaches(commit, state)
			if got := u.value("a"); got != want {
				t.Errorf("value is %q: %+v", got, d)
			}
			// What is not ours is not deleted, either.
			u.sync(files{"a.yaml": "", "b.yaml": configMap("b", "1")})
			if gone := u.object(configMaps, "a") == nil; gone != c.taken {
				t.Errorf("deleted with its removal from git: %t", gone)
			}
		})
	}
}

func TestDryRun(t *testing.T) {
	for _, strategy := range []string{"client", "server"} {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			u := shared.follow(t, "", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
			first := u.git("rev-parse", "HEAD")
			u.done(first)
			u.configure("dry_run_strategy: " + strategy)
			u.begun(first, 2) // with the new options, which a commit pushed at once would overtake
			commit := u.push(files{"a.yaml": configMap("a", "2"), "b.yaml": "", "c.yaml": configMap("c", "1")})
			u.logs("Objects synchronized", commit)
			if u.value("a") != "1" || u.value("b") != "1" || u.object(configMaps, "c") != nil {
				t.Error("a dry run changed the cluster")
			}
			if d := u.document(); (d.Commit == commit) != (strategy == "server") {
				t.Errorf("status: %+v", d)
			}
			u.configure("dry_run_strategy: none")
			eventually(t, func() string {
				if d := u.document(); d.Commit != commit || d.DryRun != "" || d.State != status.Succeeded {
					return fmt.Sprintf("after the dry run: %+v", d)
				}
				return ""
			})
			if u.value("a") != "2" || u.object(configMaps, "b") != nil || u.value("c") != "1" {
				t.Error("after the dry run the commit was not applied")
			}
		})
	}
}

func TestKeepOnRemoval(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{
		"keep.yaml":   annotated("keep", "cli-utils.sigs.k8s.io/on-remove", "keep"),
		"detach.yaml": annotated("detach", "client.lifecycle.config.k8s.io/deletion", "detach"),
		"goes.yaml":   configMap("goes", "1"), "stays.yaml": configMap("stays", "1"),
	})
	u.done(u.git("rev-parse", "HEAD"))
	u.sync(files{"keep.yaml": "", "detach.yaml": "", "goes.yaml": ""})
	for name, want := range map[string]bool{"keep": true, "detach": true, "goes": false, "stays": true} {
		if got := u.object(configMaps, name) != nil; got != want {
			t.Errorf("%s is there: %t", name, got)
		}
	}
	for _, name := range []string{"keep", "detach"} {
		if owner := u.object(configMaps, name).GetAnnotations()["config.k8s.io/owning-inventory"]; owner != "" {
			t.Errorf("%s still belongs to inventory %s", name, owner)
		}
	}
}
