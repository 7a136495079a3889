package gitops

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
	"gitlab.com/agentk/agentk/test/kube"
)

const (
	configMaps  = "configmaps.v1."
	deployments = "deployments.v1.apps"
	replicaSets = "replicasets.v1.apps"
)

// pollPeriod is how often something is asked for that has to come.
const pollPeriod = 50 * time.Millisecond

func resource(t *testing.T, cp *kube.ControlPlane, kind, namespace string) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(cp.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	gvr, _ := schema.ParseResourceArg(kind)
	if gvr == nil {
		t.Fatalf("bad resource %q", kind)
	}
	return client.Resource(*gvr).Namespace(namespace)
}

// get returns an object; nil: there is none. The API server may be down.
func (b *bed) get(t *testing.T, kind, namespace, name string) (*unstructured.Unstructured, error) {
	t.Helper()
	u, err := resource(t, b.cp, kind, namespace).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return u, err
}

// object returns an object of the unit's namespace; nil: there is none.
func (u *unit) object(kind, name string) *unstructured.Unstructured {
	u.t.Helper()
	o, err := u.bed.get(u.t, kind, u.namespace, name)
	if err != nil {
		u.t.Fatal(err)
	}
	return o
}

// text returns a string inside an object, "" if either is missing.
func text(o *unstructured.Unstructured, path ...string) string {
	if o == nil {
		return ""
	}
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// value is the key v of a ConfigMap of the unit.
func (u *unit) value(name string) string {
	u.t.Helper()
	return text(u.object(configMaps, name), "data", "v")
}

// eventually polls until check returns "", and fails with what it returned last.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		wrong := check()
		if wrong == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(wrong)
		case <-tick.C:
		}
	}
}

// document reads the status of the project; the zero value: there is none.
func (u *unit) document() status.Document {
	u.t.Helper()
	var d status.Document
	o, err := u.bed.get(u.t, configMaps, u.namespace, status.Name(u.inventory()))
	if err != nil || o == nil {
		return d
	}
	if err := json.Unmarshal([]byte(text(o, "data", status.DataKey)), &d); err != nil {
		u.t.Fatal(err)
	}
	return d
}

// inventory is the id of the project's inventory.
func (u *unit) inventory() string { return fmt.Sprintf("%d-%d", u.bed.agentID, u.id) }

// done waits until a commit was synchronised without error.
func (u *unit) done(commit string) status.Document {
	u.t.Helper()
	return u.reaches(commit, status.Succeeded)
}

// fails waits until the synchronisation of a commit has failed with an error that has all the words.
func (u *unit) fails(commit string, words ...string) status.Document {
	u.t.Helper()
	d := u.reaches(commit, status.Failed)
	for _, w := range words {
		if !strings.Contains(d.Error, w) {
			u.t.Errorf("error %q does not have %q", d.Error, w)
		}
	}
	return d
}

func (u *unit) reaches(commit string, state status.State) status.Document {
	u.t.Helper()
	var d status.Document
	eventually(u.t, func() string {
		d = u.document()
		if d.Commit == commit && d.State == state {
			return ""
		}
		return fmt.Sprintf("commit %s of %s does not get %s: %+v", commit, u.project, state, d)
	})
	return d
}

// sync pushes changes and waits until they are synchronised.
func (u *unit) sync(content files) status.Document {
	u.t.Helper()
	return u.done(u.push(content))
}

// logs waits until the agent has logged a line about the unit that has all the words.
func (u *unit) logs(words ...string) {
	u.t.Helper()
	words = append(words, `"`+u.project+`"`)
	eventually(u.t, func() string {
		for line := range strings.Lines(u.bed.AgentLog(agentName)) {
			if hasAll(line, words) {
				return ""
			}
		}
		return fmt.Sprintf("no line of the agent's log has all of %q", words)
	})
}

// begun waits until synchronisations of a commit have been begun so many times: once, and again for each change of options.
func (u *unit) begun(commit string, times int) {
	u.t.Helper()
	words := []string{"Synchronizing objects", `"` + u.project + `"`, commit}
	eventually(u.t, func() string {
		n := 0
		for line := range strings.Lines(u.bed.AgentLog(agentName)) {
			if hasAll(line, words) {
				n++
			}
		}
		if n >= times {
			return ""
		}
		return fmt.Sprintf("commit %s was begun %d times, not %d", commit, n, times)
	})
}

func hasAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// configMap is a manifest without namespace.
func configMap(name, value string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {v: %q}}\n", name, value)
}

// annotated is a ConfigMap with an annotation.
func annotated(name, key, value string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, annotations: {%q: %q}}, data: {v: annotated}}\n", name, key, value)
}

// deployment has further fields of its spec in flow style. There is no node: only one without replicas gets ready.
func deployment(name, more string) string {
	return fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %[1]s}, spec: {%[2]s, selector: {matchLabels: {app: %[1]s}},
  template: {metadata: {labels: {app: %[1]s}}, spec: {containers: [{name: c, image: local/web:1}]}}}}
`, name, more)
}
