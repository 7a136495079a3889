package charts

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// release is an installed chart.
type release struct {
	chart     *Chart
	namespace string
}

// helm installs or changes the release.
func (r release) helm(t *testing.T, values string) {
	t.Helper()
	out, stderr, err := r.chart.Helm(t, "fullnameOverride: edge\n"+values, "upgrade", "--install", "edge", r.chart.Dir, "--namespace", r.namespace, "--values", "-")
	if err != nil {
		t.Fatalf("helm upgrade: %v\n%s%s", err, out, stderr)
	}
}

func (r release) deployment(t *testing.T, ctx context.Context) *appsv1.Deployment {
	t.Helper()
	d, err := cluster.Client.AppsV1().Deployments(r.namespace).Get(ctx, "edge-v2", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAgent_Lifecycle(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r := release{New(t, cluster, agentChart), cluster.Namespace(t)}
	r.helm(t, "config: {token: first}")
	binding := r.namespace + ":edge-cluster-admin"
	if _, err := cluster.Client.RbacV1().ClusterRoleBindings().Get(ctx, binding, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	r.helm(t, "config: {token: first}\nrbac: {profile: impersonate-only}")
	if _, err := cluster.Client.RbacV1().ClusterRoleBindings().Get(ctx, binding, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("less power was asked for, the ClusterRoleBinding is still there: %v", err)
	}

	before := r.deployment(t, ctx)
	r.helm(t, "config: {token: second}\nrbac: {profile: impersonate-only}")
	if after := r.deployment(t, ctx); after.Generation != before.Generation {
		t.Errorf("a new token makes the Deployment's generation %d, was %d", after.Generation, before.Generation)
	}
	secret, err := cluster.Client.CoreV1().Secrets(r.namespace).Get(ctx, "edge-token", metav1.GetOptions{})
	if err != nil || string(secret.Data["token"]) != "second" {
		t.Errorf("the Secret has %q, %v", secret.Data, err)
	}

	r.keepLease(t, ctx, before)
	if out, stderr, err := r.chart.Helm(t, "", "uninstall", "edge", "--namespace", r.namespace, "--wait"); err != nil {
		t.Fatalf("helm uninstall: %v\n%s%s", err, out, stderr)
	}
	r.checkGone(t, ctx)
}

// keepLease does, with the agent's own account, what a leader does: it finds its Deployment by way of its Pod and makes it the owner
// of the Lease. It also leaves a ConfigMap, as GitOps does.
func (r release) keepLease(t *testing.T, ctx context.Context, deployment *appsv1.Deployment) {
	t.Helper()
	agent := as(t, ctx, r.namespace, "edge")
	var pod string
	eventually(t, ctx, "a pod", func() bool {
		pods, err := cluster.Client.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=gitlab-agent"})
		if err != nil || len(pods.Items) == 0 {
			return false
		}
		pod = pods.Items[0].Name
		return true
	})
	own, err := agent.client.CoreV1().Pods(r.namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := agent.client.AppsV1().ReplicaSets(r.namespace).Get(ctx, metav1.GetControllerOf(own).Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owner := metav1.GetControllerOf(set)
	if owner.UID != deployment.UID {
		t.Errorf("the pod leads to %v, want Deployment %s", owner, deployment.UID)
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "agent-7-lock", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: owner.UID},
	}}}
	if _, err := agent.client.CoordinationV1().Leases(r.namespace).Create(ctx, lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	inventory := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "inventory"}}
	if _, err := agent.client.CoreV1().ConfigMaps(r.namespace).Create(ctx, inventory, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// checkGone waits until nothing is left but what NOTES announce.
func (r release) checkGone(t *testing.T, ctx context.Context) {
	t.Helper()
	left := ""
	defer func() {
		if t.Failed() {
			t.Log("left: ", left)
		}
	}()
	eventually(t, ctx, "all to be gone", func() bool {
		kinds := "deployments,replicasets,pods,services,secrets,configmaps,serviceaccounts,roles,rolebindings,leases,poddisruptionbudgets"
		out, err := cluster.Kubectl(ctx, "get", kinds, "--namespace", r.namespace, "--output", "name")
		var rest []string
		for name := range strings.FieldsSeq(out) {
			if name != "configmap/kube-root-ca.crt" && name != "serviceaccount/default" {
				rest = append(rest, name)
			}
		}
		left = strings.Join(rest, " ")
		return err == nil && left == "configmap/inventory"
	})
	out, err := cluster.Kubectl(ctx, "get", "clusterroles,clusterrolebindings", "--output", "name")
	if err != nil || strings.Contains(out, r.namespace+":") {
		t.Errorf("cluster-wide objects are left, %v:\n%s", err, out)
	}
}

// eventually waits until done says so.
func eventually(t *testing.T, ctx context.Context, what string, done func() bool) {
	t.Helper()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
