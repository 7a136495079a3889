package engine_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
)

// document reads the status of a project.
func document(t *testing.T, p *project, namespace string) status.Document {
	t.Helper()
	var d status.Document
	text := data(t, namespace, fmt.Sprintf("gitops-status-%d-%d", agentID, p.id), status.DataKey)
	if text == "" {
		return d
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// eventsOf lists the Events of a project.
func eventsOf(t *testing.T, p *project, namespace string) []unstructured.Unstructured {
	t.Helper()
	list, err := resource(t, "events.v1.", namespace).
		List(t.Context(), metav1.ListOptions{FieldSelector: fmt.Sprintf("involvedObject.name=gitops-status-%d-%d", agentID, p.id)})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestVisible_Success(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Id = new("group/project")
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1"), "sub/web.yaml": deployment("web", "replicas: 0")})
	d := document(t, p, ns)
	if d.State != status.Succeeded || d.Commit != "c1" || d.Unit != "group/project" || d.Reason != "commit" || d.Finished == nil || d.LastSuccess != "c1" {
		t.Errorf("%+v", d)
	}
	if len(d.Objects) != 2 || d.Counts.Applied != 2 {
		t.Fatalf("%+v", d)
	}
	want := status.Object{
		Group: "apps", Kind: "Deployment", Namespace: ns, Name: "web", File: "sub/web.yaml", Line: 1,
		Action: "apply", Result: "succeeded", Status: "Current", Message: d.Objects[1].Message,
	}
	if d.Objects[1] != want {
		t.Errorf("%+v", d.Objects[1])
	}
	events := eventsOf(t, p, ns)
	if len(events) != 1 || field(&events[0], "reason") != "SyncSucceeded" || field(&events[0], "type") != "Normal" ||
		!strings.Contains(fmt.Sprint(field(&events[0], "message")), "commit c1: 2 applied") {
		t.Errorf("Events: %v", events)
	}
	if uid := field(&events[0], "involvedObject", "uid"); uid == "" || uid == nil {
		t.Error("the Event does not point at the ConfigMap")
	}
}

func TestVisible_FailureIsCountedUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1")})
	r.syncError(p, "c2", files{"x.yaml": "apiVersion: no.example.com/v1\nkind: Nothing\nmetadata: {name: x}\n"}, "x.yaml:1")
	r.finished(p)
	d := document(t, p, ns)
	if d.State != status.Failed || d.Commit != "c2" || d.LastSuccess != "c1" || !strings.Contains(d.Error, "x.yaml:1: Nothing x") {
		t.Errorf("%+v", d)
	}
	if len(d.Objects) != 1 || d.Objects[0].Error == "" || d.Objects[0].Result != "failed" || d.Objects[0].File != "x.yaml" {
		t.Errorf("objects: %+v", d.Objects)
	}
	failures := 0
	for _, e := range eventsOf(t, p, ns) {
		if field(&e, "reason") == "SyncFailed" {
			failures++
			if n := field(&e, "count").(int64); n < 2 {
				t.Errorf("the Event was counted %d times", n)
			}
		}
	}
	if failures != 1 {
		t.Errorf("%d Events of one failure", failures)
	}
	r.syncError(p, "c3", files{"bad.yaml": "a: ["}, "bad.yaml")
	if d := document(t, p, ns); !d.UserError || d.Commit != "c3" {
		t.Errorf("%+v", d)
	}
}

func TestVisible_RunningWhileItWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.ReconcileTimeout = durationpb.New(time.Hour)
	r.start(p, "c1", files{"web.yaml": deployment("web", "replicas: 1")})
	eventually(t, "the status says Running", func() bool { return document(t, p, ns).State == status.Running })
}

func TestServiceAccount_BoundsTheSynchronisation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	if err := cluster.Apply(t.Context(), `apiVersion: v1
kind: ServiceAccount
metadata: {name: deployer, namespace: `+ns+`}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer, namespace: `+ns+`}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer, namespace: `+ns+`}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: deployer}
subjects: [{kind: Group, name: "system:serviceaccounts:`+ns+`"}]
`); err != nil {
		t.Fatal(err)
	}
	p.spec.ServiceAccount = ns + "/deployer"
	eventually(t, "the role is in force", func() bool {
		r.start(p, "c1", files{"a.yaml": configMap("a", "1")})
		return r.finished(p).GetError() == ""
	})
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
	f := r.syncError(p, "c2", files{"a.yaml": configMap("a", "1"), "s.yaml": secret}, "s.yaml:1: Secret "+ns+"/s", "forbidden", "system:serviceaccount:"+ns+":deployer")
	if f.GetUserError() || exists(t, "secrets.v1.", ns, "s") {
		t.Errorf("%v", f)
	}
	if d := document(t, p, ns); d.Commit != "c2" || d.State != status.Failed {
		t.Errorf("status: %+v", d)
	}
	// What was refused is not there, and nobody has to look for it who may not.
	for _, onError := range []string{"stop", "continue"} {
		p.spec.OnError = onError
		r.sync(p, "c3", files{"a.yaml": configMap("a", "3")})
		r.syncError(p, "c4", files{"a.yaml": configMap("a", "3"), "s.yaml": secret}, "forbidden")
	}
	r.sync(p, "c5", files{"a.yaml": configMap("a", "5")})
	q, _ := newProject(t)
	q.spec.ServiceAccount = ns + "/deployer"
	r.syncError(q, "c1", files{"a.yaml": configMap("a", "1")}, "forbidden")
	if d := document(t, q, q.spec.GetDefaultNamespace()); d.State != status.Failed {
		t.Errorf("an account that may nothing leaves no status: %+v", d)
	}
	q.spec.ServiceAccount = "no-namespace"
	if f := r.syncError(q, "c2", files{}, "<namespace>/<name>"); !f.GetUserError() {
		t.Errorf("%v", f)
	}
}

func TestVisible_ValuesOfSecretsAreNot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, field := range []string{"stringData: {pin: 1357924680}", "data: {pin: 1357924680}", `data: {pin: "1357924680?"}`, "immutable: 1357924680"} {
		p, ns := newProject(t)
		f := r.syncError(p, "c1", files{"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n" + field + "\n"}, "s.yaml:1: Secret "+ns+"/s")
		shown := f.GetError() + fmt.Sprint(document(t, p, ns), eventsOf(t, p, ns))
		if !f.GetUserError() || strings.Contains(shown, "1357924680") {
			t.Errorf("%s: %s", field, shown)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.messages {
		if strings.Contains(m.String(), "1357924680") {
			t.Errorf("sent %v", m)
		}
	}
}
