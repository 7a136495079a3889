//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// chart is a small one, by file.
var chart = map[string]string{
	"Chart.yaml":  "{apiVersion: v2, name: shop, version: 0.1.0}",
	"values.yaml": "{greeting: one, probe: /}",
	"templates/web.yaml": `
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}-web}
spec:
  progressDeadlineSeconds: 60
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: local/web:1
        env: [{name: GREETING, value: {{ .Values.greeting | quote }}}]
        readinessProbe: {httpGet: {path: {{ .Values.probe }}, port: {{ .Values.port | default 8080 }}}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-web}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80, targetPort: 8080}]}
`,
}

func TestHelm(t *testing.T) {
	program, err := kube.Helm(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range chart {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j := newJob(t)
	helm := func(args ...string) *exec.Cmd {
		t.Helper()
		cmd, err := ci.Command(soon(t), jobID, program, append([]string{"--namespace", j.namespace}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	// Helm waits for the new pod and not for the end of the old one, which is what exec prefers.
	greets := func(want string) {
		t.Helper()
		line.Eventually(soon(t), t, "the release greets with "+want, func(ctx context.Context) error {
			out, err := j.kubectl(ctx, t, "exec", "deployment/shop-web", "--", "sh", "-c", "echo $GREETING").CombinedOutput()
			if err == nil && strings.TrimSpace(string(out)) == want {
				return nil
			}
			return fmt.Errorf("%q, %w", out, err)
		})
	}
	output(t, helm("install", "shop", dir, "--wait", "--timeout", "90s"))
	greets("one")
	output(t, helm("upgrade", "shop", dir, "--atomic", "--timeout", "90s", "--set", "greeting=two"))
	greets("two")

	out, err := helm("upgrade", "shop", dir, "--atomic", "--timeout", "12s", "--set", "greeting=three,port=1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "rolled back") {
		t.Errorf("upgrade to what never gets ready: %v, %s, want it to be rolled back", err, out)
	}
	greets("two")

	output(t, helm("rollback", "shop", "1", "--wait", "--timeout", "90s"))
	greets("one")
	if got := output(t, helm("history", "shop", "-o", "yaml")); strings.Count(got, "revision:") != 5 {
		t.Errorf("history of the release:\n%s\nwant five revisions", got)
	}
	output(t, helm("uninstall", "shop", "--wait", "--timeout", "90s"))
	if got := j.run(t, "get", "deployments,services,secrets", "-o", "name"); got != "" {
		t.Errorf("left after uninstall: %s", got)
	}
}
