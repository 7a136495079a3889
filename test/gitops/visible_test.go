package gitops

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"web/a.yaml": configMap("a", "1")})
	good := u.git("rev-parse", "HEAD")
	d := u.done(good)
	if d.Unit != u.project || d.LastSuccess != good || len(d.Objects) != 1 || d.Objects[0].File != "web/a.yaml" || d.Objects[0].Line != 1 ||
		d.Objects[0].Status != "Current" {
		t.Errorf("%+v", d)
	}
	eventually(t, func() string { return noEvent(u, "SyncSucceeded", "Normal") })
	u.logs("Objects synchronized", good, `"applied"`, `"duration"`)

	bad := u.push(files{"web/b.yaml": configMap("b", "1") + "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: Not-A-Name}}\n"})
	d = u.fails(bad, "web/b.yaml:3", "Not-A-Name")
	if d.LastSuccess != good {
		t.Errorf("%+v", d)
	}
	eventually(t, func() string { return noEvent(u, "SyncFailed", "Warning") })
	u.logs("Synchronization failed", bad, "web/b.yaml:3")

	out := agentk(t, 0, "gitops", "status", u.project)
	for _, want := range []string{u.project, u.namespace, "Failed", bad[:12], "web/b.yaml:3", "Not-A-Name"} {
		if !strings.Contains(out, want) {
			t.Errorf("agentk gitops status does not have %q:\n%s", want, out)
		}
	}
	page, err := shared.AgentMetrics(t.Context(), agentName)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{`agentk_syncs_total{result="succeeded"}`, `agentk_syncs_total{result="failed"}`, "agentk_gitops_engine_starts_total"} {
		if n, _ := line.Metric(page, name); n == "" || n == "0" {
			t.Errorf("metric %s is %q", name, n)
		}
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	u := shared.follow(t, "", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	u.done(u.git("rev-parse", "HEAD"))
	dir := shared.CloneDir(u.project)
	for name, content := range map[string]string{"a.yaml": configMap("a", "2"), "c.yaml": configMap("c", "1")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	out := agentk(t, 2, "gitops", "diff", u.project, "--dir", dir, "--exit-code")
	for name, action := range map[string]string{"a": "change", "b": "prune", "c": "create"} {
		if want := fmt.Sprintf("%s ConfigMap %s/%s", action, u.namespace, name); !strings.Contains(out, want) {
			t.Errorf("agentk gitops diff does not have %q:\n%s", want, out)
		}
	}
	if u.value("a") != "1" || u.object(configMaps, "c") != nil || u.object(configMaps, "b") == nil {
		t.Error("a diff changed the cluster")
	}
}

// agentk runs the program as administrator of the cluster and returns what it prints.
func agentk(t *testing.T, code int, args ...string) string {
	t.Helper()
	binaries, err := line.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.Agentk, append(args, "--kubeconfig", cluster.AdminKubeconfig)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		t.Fatalf("agentk %q: %v\n%s", args, err, out)
	}
	return string(out)
}
