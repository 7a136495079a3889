//go:build e2e

package install

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/internal/version"
	"gitlab.com/agentk/agentk/test/line"
)

// generated is "agentk generate | kubectl apply -f -".
func generated(t *testing.T, j job) {
	binaries, err := line.Build(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	generate := exec.CommandContext(soon(t), binaries.Agentk, "generate", "--agent-token", "-", "--kas-address", kasInCluster,
		"--agent-version", version.Version, "--namespace", "agent-generated", "--name-prefix", "gen-")
	generate.Stdin = strings.NewReader(agentToken("generated") + "\n")
	manifests := output(t, generate)

	kubectl := func(args ...string) {
		t.Helper()
		cmd := cluster.KubectlCommand(soon(t), cluster.AdminKubeconfig, args...)
		cmd.Stdin = strings.NewReader(manifests)
		output(t, cmd)
	}
	kubectl("apply", "-f", "-")
	admin(t, "--namespace", "agent-generated", "wait", "--for=condition=Available", "deployment", "--all", "--timeout=120s")
	j.works(t, "generated")
	kubectl("delete", "--wait", "--timeout=90s", "-f", "-")
}

// handwritten is a Deployment as it is widely copied: configuration and token mounted and in the environment, nothing about the pod.
const handwritten = `
{apiVersion: v1, kind: Namespace, metadata: {name: agent-byhand}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: agent, namespace: agent-byhand}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: agent-byhand},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
 subjects: [{kind: ServiceAccount, name: agent, namespace: agent-byhand}]}
---
{apiVersion: v1, kind: Secret, metadata: {name: agent-token, namespace: agent-byhand}, stringData: {token: %[1]s}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: agent-config, namespace: agent-byhand}
data:
  config.yaml: |
    agent:
      token: %[1]s
    ci_access:
      projects:
      - id: acme/intern
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: agent, namespace: agent-byhand}
spec:
  replicas: 1
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      serviceAccountName: agent
      containers:
      - name: agentk
        image: registry.gitlab.com/agentk/agentk/agentk:%[2]s
        args: [--config=/etc/agent/config, --kas-address=%[3]s, --log-format=json]
        env:
        - name: AGENT_SECRET_KEY
          valueFrom: {secretKeyRef: {name: agent-token, key: token}}
        readinessProbe: {httpGet: {path: /readiness, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: config, mountPath: /etc/agent/config}]
      volumes: [{name: config, configMap: {name: agent-config}}]
`

func byHand(t *testing.T, j job) {
	manifests := fmt.Sprintf(handwritten, agentToken("byhand"), version.Version, kasInCluster)
	apply(t, manifests)
	t.Cleanup(func() {
		out, err := cluster.Kubectl(context.Background(), "delete", "--wait", "--timeout=90s", "namespace/agent-byhand", "clusterrolebinding/agent-byhand")
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	admin(t, "--namespace", "agent-byhand", "wait", "--for=condition=Available", "deployment/agent", "--timeout=120s")
	j.works(t, "byhand")
	log := admin(t, "--namespace", "agent-byhand", "logs", "deployment/agent")
	if got := strings.Count(log, "ci_access"); got != 1 {
		t.Errorf("%d lines of the agent's log are about ci_access of the mounted configuration, want one:\n%s", got, log)
	}
	if strings.Contains(log, agentToken("byhand")) {
		t.Error("the token is in the agent's log")
	}
}
