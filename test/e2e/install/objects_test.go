//go:build e2e

package install

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// transient are kinds that come and go by themselves.
var transient = []string{"events", "events.events.k8s.io", "componentstatuses"}

// inventory is every object of the cluster, as kind/namespace/name, but for those of the node.
func inventory(t *testing.T) map[string]bool {
	t.Helper()
	var kinds []string
	for kind := range strings.FieldsSeq(admin(t, "api-resources", "--verbs=list", "-o", "name")) {
		if !slices.Contains(transient, kind) {
			kinds = append(kinds, kind)
		}
	}
	list := admin(t, "get", strings.Join(kinds, ","), "--all-namespaces", "--ignore-not-found",
		"-o", `jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{"\n"}{end}`)
	all := map[string]bool{}
	for object := range strings.FieldsSeq(list) {
		if !strings.Contains(object, "/kube-node-lease/") {
			all[object] = true
		}
	}
	return all
}

// wantOnly waits until the cluster has nothing that was not there before.
func wantOnly(t *testing.T, before map[string]bool) {
	t.Helper()
	line.Eventually(soon(t), t, "objects after uninstalling", func(context.Context) error {
		left := inventory(t)
		maps.DeleteFunc(left, func(object string, _ bool) bool { return before[object] })
		if len(left) > 0 {
			return fmt.Errorf("left behind: %v", slices.Sorted(maps.Keys(left)))
		}
		return nil
	})
}

// podNames are the Pods of a namespace with a label, as pod/NAME.
func podNames(t *testing.T, namespace, selector string) []string {
	t.Helper()
	names := strings.Fields(admin(t, "--namespace", namespace, "get", "pods", "--selector", selector, "-o", "name"))
	if len(names) == 0 {
		t.Fatalf("no pods %s in namespace %s", selector, namespace)
	}
	return names
}
