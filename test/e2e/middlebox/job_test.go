//go:build e2e

package middlebox

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// kubectl runs kubectl as a job.
func kubectl(t *testing.T, l *line.Line, job int64, args ...string) string {
	t.Helper()
	out, err := l.Kubectl(soon(t), job, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply creates or changes a ConfigMap as a job.
func apply(t *testing.T, l *line.Line, job int64, namespace, name, value string) {
	t.Helper()
	manifest := fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: %s}, data: {key: %s}}", name, namespace, value)
	if _, err := l.Apply(soon(t), job, manifest); err != nil {
		t.Fatal(err)
	}
}

// workThrough does what a job does with a cluster: apply, get, a watch that sees a change, delete.
func workThrough(t *testing.T, l *line.Line, job int64, namespace string) {
	t.Helper()
	kubectl(t, l, job, "create", "namespace", namespace)
	apply(t, l, job, namespace, "first", "one")
	if got := kubectl(t, l, job, "-n", namespace, "get", "configmap", "first", "-o", "jsonpath={.data.key}"); got != "one" {
		t.Errorf("get after apply: key = %q, want %q", got, "one")
	}
	w := startWatch(t, l, job, namespace)
	w.want(t, "configmap/first")
	apply(t, l, job, namespace, "second", "two")
	w.want(t, "configmap/second")
	kubectl(t, l, job, "-n", namespace, "delete", "configmap", "first")
	w.want(t, "configmap/first")
	if out, err := l.Kubectl(soon(t), job, "-n", namespace, "get", "configmap", "first"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("get after delete: output %q, error %v, want NotFound", out, err)
	}
}

// watch is a kubectl that watches ConfigMaps.
type watch struct{ names chan string }

// startWatch watches until the end of the test.
func startWatch(t *testing.T, l *line.Line, job int64, namespace string) *watch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd, err := l.KubectlCommand(ctx, job, "-n", namespace, "get", "configmaps", "--watch", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &watch{names: make(chan string, 64)}
	go func() {
		defer close(w.names)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			w.names <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range w.names { // until the pipe has ended, which Wait closes
		}
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("standard error of the watch: %s", stderr.String())
		}
	})
	return w
}

// want waits for the next event and checks which object it is about.
func (w *watch) want(t *testing.T, name string) {
	t.Helper()
	ctx := soon(t)
	select {
	case got, open := <-w.names:
		if !open || got != name {
			t.Fatalf("watch: got %q (open %t), want %q", got, open, name)
		}
	case <-ctx.Done():
		t.Fatalf("watch: no event, want %q", name)
	}
}

// wantNone checks that the watch is open and silent.
func (w *watch) wantNone(t *testing.T) {
	t.Helper()
	select {
	case got, open := <-w.names:
		t.Fatalf("watch: got %q (open %t) while nothing happened", got, open)
	default:
	}
}
