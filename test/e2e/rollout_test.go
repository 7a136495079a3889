//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

const deployment = `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {
 metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{
  name: web, image: "local/web:1", readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]}}}}`

func TestRollout(t *testing.T) {
	j := newJob(t)
	rolledOut := func(t *testing.T) {
		t.Helper()
		out := j.run(t, "rollout", "status", "deployment/web", "--timeout=90s")
		if !strings.Contains(out, "successfully rolled out") {
			t.Errorf("rollout status says %q", out)
		}
	}
	j.apply(t, deployment)
	rolledOut(t)
	j.run(t, "wait", "--for=condition=Available", "deployment/web", "--timeout=60s")

	j.run(t, "set", "env", "deployment/web", "GREETING=again")
	rolledOut(t)
	if got := j.run(t, "exec", "deployment/web", "--", "sh", "-c", "echo $GREETING"); got != "again\n" {
		t.Errorf("greeting of the second version %q", got)
	}

	j.run(t, "set", "image", "deployment/web", "web=local/nonesuch:1")
	out, err := j.kubectl(soon(t), t, "rollout", "status", "deployment/web", "--timeout=3s").CombinedOutput()
	if err == nil {
		t.Errorf("rollout of an image that is not there: %s, want a failure", out)
	}
	j.run(t, "rollout", "undo", "deployment/web")
	rolledOut(t)
}

func TestWait_Delete(t *testing.T) {
	j := newJob(t)
	j.webPod(t)
	cmd := j.kubectl(soon(t), t, "wait", "--for=delete", "pod/web", "--timeout=90s")
	p := begin(t, cmd)
	j.run(t, "delete", "pod", "web", "--now")
	if got := p.wait(t); got != 0 {
		t.Errorf("kubectl wait ended with code %d: %s", got, &p.stderr)
	}
}

func TestWait_Timeout(t *testing.T) {
	j := newJob(t)
	j.webPod(t)
	out, err := j.kubectl(soon(t), t, "wait", "--for=delete", "pod/web", "--timeout=2s").CombinedOutput()
	if exitCode(t, err) != 1 || !strings.Contains(string(out), "timed out waiting") {
		t.Errorf("wait for what does not happen: %v, %s", err, out)
	}
}
