//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// patience bounds what a test waits for. It is many times what a free machine needs.
const patience = 2 * time.Minute

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// job is the CI job at work in a namespace of one test.
type job struct {
	namespace string
	env       []string // of kubectl and helm, besides that of every job
}

// newJob makes a namespace in which the job's project may do what ClusterRole admin allows.
func newJob(t *testing.T) job {
	t.Helper()
	name := strings.TrimPrefix(t.Name(), "Test") + "-" + rand.Text()[:5] // a test may run more than once
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(name))
	err := cluster.Apply(soon(t), fmt.Sprintf(`
{apiVersion: v1, kind: Namespace, metadata: {name: %[1]s}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: ci, namespace: %[1]s},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "%[2]s"}]}`, name, jobGroup))
	if err != nil {
		t.Fatal(err)
	}
	j := job{namespace: name}
	j.run(t, "wait", "--for=create", "serviceaccount/default", "--timeout=60s") // Pods are refused without it
	return j
}

// kubectl is ready to start.
func (j job) kubectl(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd, err := ci.KubectlCommand(ctx, jobID, append([]string{"--namespace", j.namespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, j.env...)
	return cmd
}

// run runs kubectl and returns its standard output.
func (j job) run(t *testing.T, args ...string) string {
	t.Helper()
	return output(t, j.kubectl(soon(t), t, args...))
}

func (j job) apply(t *testing.T, manifest string) {
	t.Helper()
	cmd := j.kubectl(soon(t), t, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	output(t, cmd)
}

// webPod starts a Pod of the image every node has, and waits until it serves.
func (j job) webPod(t *testing.T) {
	t.Helper()
	j.apply(t, `
{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {terminationGracePeriodSeconds: 0, containers: [{
 name: web, image: "local/web:1", readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]}}`)
	j.run(t, "wait", "--for=condition=Ready", "pod/web", "--timeout=90s")
}

// output runs a program that is to succeed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, stderrOf(err))
	}
	return string(out)
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

// protocol is one of the two ways kubectl upgrades a connection. The audit log tells them apart by their HTTP method: SPDY takes POST,
// WebSocket knows only GET.
type protocol struct{ name, websockets, verb string }

var protocols = []protocol{{"SPDY", "false", "create"}, {"WebSocket", "true", "get"}}

// eachProtocol runs a test with both. Afterwards the API server must have seen exactly that protocol, as kubectl would silently fall
// back from one to the other, and the identity of the job.
func eachProtocol(t *testing.T, test func(*testing.T, job)) {
	t.Helper()
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			j := newJob(t)
			j.env = []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + p.websockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS=" + p.websockets}
			test(t, j)
			p.check(t, j.namespace)
		})
	}
}

func (p protocol) check(t *testing.T, namespace string) {
	t.Helper()
	line.Eventually(soon(t), t, "audit log", func(context.Context) error {
		events, err := cluster.AuditEvents()
		if err != nil {
			return err
		}
		upgrades := 0
		for _, e := range events {
			if e.ObjectRef.Namespace != namespace || !slices.Contains([]string{"exec", "attach", "portforward"}, e.ObjectRef.Subresource) {
				continue
			}
			upgrades++
			if e.Verb != p.verb || e.ResponseStatus.Code != 101 {
				t.Errorf("%s %s: verb %s, code %d, want %s and 101", e.RequestURI, e.Stage, e.Verb, e.ResponseStatus.Code, p.verb)
			}
			if e.ImpersonatedUser == nil || e.ImpersonatedUser.Username != fmt.Sprintf("gitlab:ci_job:%d", jobID) {
				t.Errorf("%s: on behalf of %+v, want the job", e.RequestURI, e.ImpersonatedUser)
			}
		}
		if upgrades == 0 {
			return errors.New("no upgraded request")
		}
		return nil
	})
}
