package charts

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"gitlab.com/agentk/agentk/test/kube"
)

// limit bounds one program that a test runs.
const limit = 2 * time.Minute

// Cluster is a Kubernetes API that knows the kinds of prometheus-operator and of the Gateway API besides its own.
type Cluster struct {
	*kube.ControlPlane
	// Version is that of the API server, for example "v1.36.3".
	Version string
	// Client is the administrator's.
	Client kubernetes.Interface

	names atomic.Int32
}

// StartCluster brings up an API server with controllers and without a node. Its end is Stop.
func StartCluster(ctx context.Context) (*Cluster, error) {
	cp, err := kube.Start(ctx, kube.Config{ControllerManager: true})
	if err != nil {
		return nil, err
	}
	c := &Cluster{ControlPlane: cp}
	if err = c.prepare(ctx); err != nil {
		cp.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	apply := []string{"apply", "--server-side"}
	for _, m := range definitions {
		files, err := m.find(ctx)
		if err != nil {
			return err
		}
		for _, file := range files {
			apply = append(apply, "-f", file)
		}
	}
	if _, err := c.Kubectl(ctx, apply...); err != nil {
		return fmt.Errorf("install CustomResourceDefinitions: %w", err)
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"); err != nil {
		return err
	}
	var err error
	if c.Client, err = kubernetes.NewForConfig(c.RESTConfig()); err != nil {
		return err
	}
	version, err := c.Client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	c.Version = version.GitVersion
	return nil
}

// Namespace makes a new namespace in which PodSecurity enforces "restricted".
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("charts-%d", c.names.Add(1))
	c.restricted(t, name)
	return name
}

// restricted makes a namespace, if it is not there yet, in which PodSecurity enforces "restricted" on pods, and warns about pods of
// Deployments that it would refuse.
func (c *Cluster) restricted(t testing.TB, name string) {
	t.Helper()
	const level = "pod-security.kubernetes.io/"
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{level + "enforce": "restricted", level + "warn": "restricted"},
	}}
	_, err := c.Client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// Create makes the objects of a manifest, for real.
func (c *Cluster) Create(t testing.TB, manifest string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := c.Apply(ctx, manifest); err != nil {
		t.Fatal(err)
	}
}

// DryRun lets the API server check every object of a manifest as if it were to be made: schema of each field, admission, RBAC. Unknown
// fields and warnings are failures. The accounts that its pods name are made for real: a pod is refused without.
func (c *Cluster) DryRun(t testing.TB, namespace, manifest string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, o := range Objects(t, manifest) {
		if o.Kind() == "Pod" {
			c.account(ctx, t, namespace, cmp.Or(o.Text("spec", "serviceAccountName"), "default"))
		}
	}
	cmd := c.KubectlCommand(ctx, c.kubeconfig(t, namespace), "apply", "--server-side", "--force-conflicts", "--dry-run=server",
		"--validate=strict", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("dry run: %v\n%s", err, out)
	} else if strings.Contains(string(out), "Warning:") {
		t.Errorf("dry run:\n%s", out)
	}
}

// account makes a ServiceAccount.
func (c *Cluster) account(ctx context.Context, t testing.TB, namespace, name string) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// kubeconfig is the administrator's with another default namespace. kubectl's flag would refuse objects of further namespaces.
func (c *Cluster) kubeconfig(t testing.TB, namespace string) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(c.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range config.Contexts {
		each.Namespace = namespace
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Pods returns the manifest of a pod of every pod template of a manifest. PodSecurity refuses pods, not their Deployments.
func Pods(t testing.TB, manifest string) string {
	t.Helper()
	var pods []Object
	for _, o := range Objects(t, manifest) {
		spec, ok := o.podSpec()
		if !ok || o.Kind() == "Pod" {
			continue
		}
		name := strings.ToLower(o.Kind()) + "-" + o.Name()
		pods = append(pods, Object{
			"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name[:min(len(name), 60)] + "-x"}, "spec": spec,
		})
	}
	return manifestOf(t, pods)
}
