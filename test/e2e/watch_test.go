//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"
)

// idle is longer than what proxies and load balancers usually allow, and than every keepalive of ours.
const idle = 3 * time.Minute

func TestWatch_Idle(t *testing.T) {
	j := newJob(t)
	ctx, cancel := context.WithTimeout(t.Context(), idle+patience)
	defer cancel()
	cmd := j.kubectl(ctx, t, "get", "configmaps", "--watch", "--output-watch-events", "--selector=app=idle", "-o", "name")
	var stdout transcript
	cmd.Stdout = &stdout
	p := begin(t, cmd)
	create := func(name string) {
		j.apply(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: `+name+`, labels: {app: idle}}}`)
	}
	create("before")
	stdout.wait(t, "configmap/before\n")
	if busy, err := busyStreams(ctx); err != nil || busy == 0 {
		t.Errorf("%d streams of the tunnel are busy during a watch, %v", busy, err)
	}
	quiet := time.After(idle)
	t.Parallel() // the other tests go on in the meantime
	select {
	case <-quiet:
	case <-p.done:
		t.Fatalf("the watch ended while it was idle: %v, %s", p.err, &p.stderr)
	}
	if got := strings.Count(stdout.String(), "\n"); got != 1 {
		t.Errorf("it was not idle: %s", &stdout)
	}
	create("after")
	stdout.wait(t, "configmap/after\n")
}
