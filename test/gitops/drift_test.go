package gitops

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// edit changes the key v of a ConfigMap by hand.
func edit(t *testing.T, u *unit, name, value string) {
	t.Helper()
	_, err := resource(t, u.bed.cp, configMaps, u.namespace).Patch(t.Context(), name, types.MergePatchType,
		fmt.Appendf(nil, `{"data": {"v": %q, "more": "by hand"}}`, value), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
}

func (u *unit) comesBack(name, value string) {
	u.t.Helper()
	eventually(u.t, func() string {
		o, err := u.bed.get(u.t, configMaps, u.namespace, name)
		if err != nil || text(o, "data", "v") != value {
			return fmt.Sprintf("%s is not put back: %v, %v", name, o, err)
		}
		return ""
	})
}

// The interval is longer than the test may take in one case, and there is no watch in the other.
func TestDrift(t *testing.T) {
	for name, options := range map[string]string{"watch": "drift: {interval: 3600s, watch: true}", "interval": "drift: {interval: 2s}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := shared.follow(t, options, files{"a.yaml": configMap("a", "git"), "b.yaml": configMap("b", "git")})
			u.done(u.git("rev-parse", "HEAD"))
			bystander := configMapIn(u.namespace, "bystander", "mine")
			if err := cluster.Apply(t.Context(), bystander); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			edit(t, u, "a", "by hand")
			u.comesBack("a", "git")
			t.Log("an edited object was put back after", time.Since(begun).Round(time.Millisecond))
			if more := text(u.object(configMaps, "a"), "data", "more"); more != "by hand" {
				t.Errorf("a field that is not in git was touched: %q", more)
			}
			if err := resource(t, cluster, configMaps, u.namespace).Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			u.comesBack("b", "git")
			if u.value("bystander") != "mine" {
				t.Error("an object outside the inventory was touched")
			}
			eventually(t, func() string { return noEvent(u, "DriftCorrected", "Normal") })
		})
	}
}

func configMapIn(namespace, name, value string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: %s}, data: {v: %q}}\n", name, namespace, value)
}

// noEvent says what is wrong with the project's Events if none has that reason and type, and points at the status.
func noEvent(u *unit, reason, kind string) string {
	list, err := resource(u.t, u.bed.cp, "events.v1.", u.namespace).List(u.t.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	uid := u.object(configMaps, "gitops-status-"+u.inventory()).GetUID()
	var seen []string
	for i := range list.Items {
		e := &list.Items[i]
		if text(e, "reason") == reason && text(e, "type") == kind && text(e, "involvedObject", "uid") == string(uid) {
			return ""
		}
		seen = append(seen, text(e, "reason")+" "+text(e, "involvedObject", "name"))
	}
	return fmt.Sprintf("no Event %s %s of the status among %q", kind, reason, seen)
}
