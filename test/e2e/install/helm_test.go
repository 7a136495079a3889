//go:build e2e

package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gopkg.in/yaml.v3"

	"gitlab.com/agentk/agentk/test/kube"
)

// object is a part of a values file.
type object = map[string]any

// release is a Helm release of one of our charts. Its namespace enforces the Pod Security Standard "restricted".
type release struct{ name, namespace, chart string }

// helm is ready to run, as administrator and without anything of the user's home.
func helm(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := kube.Helm(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(soon(t), program, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.AdminKubeconfig,
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	return cmd
}

// install installs the release and waits until it is ready. It returns what Helm prints, the notes among it.
func (r release) install(t *testing.T, values object) string {
	t.Helper()
	return output(t, helm(t, "install", r.name, filepath.Join("charts", r.chart), "--namespace", r.namespace,
		"--values", r.values(t, values), "--wait", "--timeout", "150s"))
}

// upgrade changes one value of the release, which must be one that replaces the pods, and waits until the last old one is gone.
func (r release) upgrade(t *testing.T, pods, set string) {
	t.Helper()
	before := podNames(t, r.namespace, pods)
	output(t, helm(t, "upgrade", r.name, filepath.Join("charts", r.chart), "--namespace", r.namespace,
		"--reuse-values", "--set", set, "--wait", "--timeout", "150s"))
	admin(t, append([]string{"--namespace", r.namespace, "wait", "--for=delete", "--timeout=120s"}, before...)...)
}

// test runs "helm test".
func (r release) test(t *testing.T) {
	t.Helper()
	cmd := helm(t, "test", r.name, "--namespace", r.namespace, "--timeout", "90s")
	if out, err := cmd.CombinedOutput(); err != nil {
		logs, _ := cluster.Kubectl(soon(t), "--namespace", r.namespace, "logs", "--prefix", "--tail=100",
			"--selector", "app.kubernetes.io/component=test")
		t.Errorf("helm test %s: %v\n%s\n%s", r.name, err, out, logs)
	}
}

func (r release) uninstall(t *testing.T) {
	t.Helper()
	output(t, helm(t, "uninstall", r.name, "--namespace", r.namespace, "--wait", "--timeout", "90s"))
}

// values writes a values file.
func (r release) values(t *testing.T, values object) string {
	t.Helper()
	content, err := yaml.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), r.name+".yaml")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// restrictedNamespace makes a namespace that refuses Pods with any privilege.
func restrictedNamespace(t *testing.T, name string) {
	t.Helper()
	apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: restricted}}}`, name))
}
