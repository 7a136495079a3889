package charts

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/kube"
)

// Chart is a chart of this repository and the cluster that it is rendered for.
type Chart struct {
	// Name is the chart's, and that of its release and namespace in all that is rendered here unless said otherwise.
	Name string
	// Dir is the folder of the chart.
	Dir string

	cluster *Cluster
	helm    string
	home    string // of helm
}

// New returns a chart of the folder charts.
func New(t testing.TB, cluster *Cluster, name string) *Chart {
	t.Helper()
	helm, err := kube.Helm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs(filepath.Join("..", "..", "charts", name))
	if err != nil {
		t.Fatal(err)
	}
	return &Chart{Name: name, Dir: dir, cluster: cluster, helm: helm, home: t.TempDir()}
}

// Helm runs helm as administrator of the cluster, with values (YAML) on its standard input, and returns both outputs.
func (c *Chart) Helm(t testing.TB, values string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.helm, args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+c.home, "HELM_CONFIG_HOME="+c.home, "HELM_DATA_HOME="+c.home,
		"KUBECONFIG="+c.cluster.AdminKubeconfig)
	cmd.Stdin = strings.NewReader(values)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// render is "helm template" for a release in a namespace.
func (c *Chart) render(t testing.TB, release, namespace, values string) (manifest, stderr string, err error) {
	t.Helper()
	return c.Helm(t, values, "template", release, c.Dir, "--namespace", namespace, "--values", "-", "--kube-version", c.cluster.Version)
}

// Template renders the chart. Anything that helm says on standard error fails t.
func (c *Chart) Template(t testing.TB, release, namespace, values string) string {
	t.Helper()
	manifest, stderr, err := c.render(t, release, namespace, values)
	if err != nil || stderr != "" {
		t.Fatalf("helm template: %v\n%s", err, stderr)
	}
	return manifest
}

// Render is Template for a release and a namespace with the chart's name.
func (c *Chart) Render(t testing.TB, values string) string {
	t.Helper()
	return c.Template(t, c.Name, c.Name, values)
}

// Lint is "helm lint --strict".
func (c *Chart) Lint(t testing.TB, values string) {
	t.Helper()
	out, stderr, err := c.Helm(t, values, "lint", "--strict", c.Dir, "--values", "-", "--kube-version", c.cluster.Version)
	if err != nil || strings.Contains(out+stderr, "[WARNING]") || strings.Contains(out+stderr, "[ERROR]") {
		t.Errorf("helm lint: %v\n%s%s", err, out, stderr)
	}
}

// Refuses fails t unless the chart refuses the values with a message that has each of the wanted words.
func (c *Chart) Refuses(t testing.TB, values string, want ...string) {
	t.Helper()
	_, stderr, err := c.render(t, c.Name, c.Name, values)
	if err == nil {
		t.Error("the chart takes it")
	}
	for _, text := range want {
		if !strings.Contains(stderr, text) {
			t.Errorf("the message lacks %q:\n%s", text, stderr)
		}
	}
}

// Notes returns what helm tells after the installation.
func (c *Chart) Notes(t testing.TB, values string) string {
	t.Helper()
	out, stderr, err := c.Helm(t, values, "install", c.Name, c.Dir, "--namespace", c.Name, "--values", "-", "--dry-run=client",
		"--take-ownership", "--output", "json")
	if err != nil {
		t.Fatalf("helm install: %v\n%s", err, stderr)
	}
	var release struct{ Info struct{ Notes string } }
	if err := json.Unmarshal([]byte(out), &release); err != nil {
		t.Fatal(err)
	}
	return release.Info.Notes
}
