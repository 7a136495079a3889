//go:build e2e

package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// kasReplicas is how many kas share Redis.
	kasReplicas = 2
	// agentReplicas is how many pods every agent of the chart has.
	agentReplicas = 2

	jobID    = 9001
	jobToken = "glcbt-canary-job-token"
	jobGroup = "gitlab:project:42"
	// kasInCluster is how agents of this cluster reach kas, without the reverse proxy.
	kasInCluster = "ws://kas.kas.svc:8150"
	agentGroup   = "acme/infra"
)

// agentIDs are the agents that kas knows: two installed by the chart, one by "agentk generate", one by hand.
var agentIDs = map[string]int{"edge": 7, "inner": 8, "generated": 9, "byhand": 10}

func agentToken(agent string) string { return "glagent-canary-" + agent }

var kasRelease = release{name: "kas", namespace: "kas", chart: "kas"}

const kasPods = "app.kubernetes.io/name=kas,app.kubernetes.io/component=server"

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// kasValues are a standalone kas with Redis and repositories on the machine.
func kasValues(m *machine) object {
	var agents []object
	for name, id := range agentIDs {
		agents = append(agents, object{"id": id, "name": name, "project": agentGroup, "token_sha256": []string{hash(agentToken(name))}})
	}
	acme := []object{{"id": 5, "path": "acme"}}
	return object{
		"minReplicas": kasReplicas, "maxReplicas": kasReplicas,
		"drain":      object{"listenGracePeriodSeconds": 3, "shutdownGracePeriodSeconds": 10},
		"deployment": object{"terminationGracePeriodSeconds": 40},
		"redis": object{
			"enabled": true, "server": object{"address": m.redisAddress}, "passwordSecret": object{"secret": "redis"},
		},
		"networkpolicy": object{"enabled": true},
		"standalone": object{
			"enabled":            true,
			"repositoriesVolume": object{"persistentVolumeClaim": object{"claimName": "git"}},
			"kubernetesApiUrl":   m.jobURL(),
			"projects":           []object{{"id": 31, "path": agentGroup, "groups": acme}, {"id": 42, "path": "acme/shop", "groups": acme}},
			"agents":             agents,
			"jobs": []object{{
				"id": jobID, "token_sha256": hash(jobToken), "pipeline": 801, "project": "acme/shop",
				"user": object{"id": 3, "username": "ci-user"},
			}},
		},
	}
}

// prepare makes what kas and the jobs find in the cluster: the volume of the repositories, the password of Redis, the job's rights.
func prepare(t *testing.T, m *machine) {
	t.Helper()
	files := map[string]string{}
	for name := range agentIDs {
		files[".gitlab/agents/"+name+"/config.yaml"] = line.CIAccess("{ci_job: {}}", "acme/shop")
	}
	m.addRepository(t, agentGroup, files)
	for _, namespace := range []string{"kas", "agent-edge", "agent-inner"} {
		restrictedNamespace(t, namespace)
	}
	apply(t, fmt.Sprintf(`
{apiVersion: v1, kind: PersistentVolume, metadata: {name: git}, spec: {
 capacity: {storage: 1Gi}, accessModes: [ReadOnlyMany], storageClassName: "", hostPath: {path: %q}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: git, namespace: kas}, spec: {
 accessModes: [ReadOnlyMany], storageClassName: "", volumeName: git, resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: Secret, metadata: {name: redis, namespace: kas}, stringData: {password: %s}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: ci, namespace: shop},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "%s"}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: stock, namespace: shop}, data: {pears: "3"}}`, m.repositories, m.redisPassword, jobGroup))
}

// kubeconfig is that of the job, as the kas in the cluster prints it.
func kubeconfig(t *testing.T) string {
	t.Helper()
	cmd := cluster.KubectlCommand(soon(t), cluster.AdminKubeconfig, "--namespace", "kas", "exec", "--stdin", "deployment/kas", "--",
		"/usr/bin/kas", "standalone", "kubeconfig", "--configuration-file", "/etc/kas/config.yaml",
		"--job", strconv.Itoa(jobID), "--token-file", "-")
	cmd.Stdin = strings.NewReader(jobToken)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(output(t, cmd)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// job is the CI job outside of the cluster.
type job struct {
	m          *machine
	kubeconfig string
}

func (j job) kubectl(ctx context.Context, agent string, args ...string) *exec.Cmd {
	cmd := cluster.KubectlCommand(ctx, j.kubeconfig, append([]string{"--context", agentGroup + ":" + agent}, args...)...)
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+j.m.authority.File, "KUBECACHEDIR="+filepath.Join(j.m.dir, "kube-cache"))
	return cmd
}

// works does what a job does, through nginx, kas and an agent, and checks who it was in the cluster.
func (j job) works(t *testing.T, agent string) {
	t.Helper()
	who := output(t, j.kubectl(soon(t), agent, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"))
	if want := fmt.Sprintf("gitlab:ci_job:%d", jobID); who != want {
		t.Errorf("through agent %s the job is %q, want %q", agent, who, want)
	}
	deploy := j.kubectl(soon(t), agent, "--namespace", "shop", "apply", "-f", "-")
	deploy.Stdin = strings.NewReader("{apiVersion: v1, kind: ConfigMap, metadata: {name: by-" + agent + "}, data: {agent: " + agent + "}}")
	output(t, deploy)
	if got := admin(t, "--namespace", "shop", "get", "configmap", "by-"+agent, "-o", "jsonpath={.data.agent}"); got != agent {
		t.Errorf("the job's ConfigMap holds %q, want %q", got, agent)
	}
	out, err := j.kubectl(soon(t), agent, "--namespace", "kas", "get", "secrets").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "forbidden") {
		t.Errorf("secrets of kas for the job: %v, %s; want it to be forbidden", err, out)
	}
	admin(t, "--namespace", "shop", "delete", "configmap", "by-"+agent)
}

// showOnFailure prints the state of the cluster when the test has failed.
func showOnFailure(t *testing.T) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, args := range [][]string{
			{"get", "pods", "--all-namespaces", "-o", "wide"},
			{"get", "events", "--all-namespaces", "--sort-by=.lastTimestamp", "--field-selector", "type!=Normal"},
		} {
			out, err := cluster.Kubectl(ctx, args...)
			t.Logf("kubectl %v: %v\n%s", args, err, out)
		}
		pods, _ := cluster.Kubectl(ctx, "get", "pods", "--all-namespaces", "-o", `jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}`)
		for pod := range strings.Lines(pods) {
			fields := strings.Fields(pod)
			if len(fields) != 2 || fields[0] == "kube-system" {
				continue
			}
			out, err := cluster.Kubectl(ctx, "--namespace", fields[0], "logs", "--all-containers", "--tail=40", fields[1])
			t.Logf("--- log of %s --- %v\n%s", fields[1], err, out)
		}
	})
}

// serviceIP is the address of a Service, which the machine reaches directly.
func serviceIP(t *testing.T, namespace, name string) string {
	t.Helper()
	return admin(t, "--namespace", namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
}
