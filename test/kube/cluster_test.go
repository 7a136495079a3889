//go:build e2e

package kube

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// podManifest is a Pod of the image every node has, and a Service in front of it.
const podManifest = `
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {
 terminationGracePeriodSeconds: 0,
 containers: [{name: web, image: "local/web:1", env: [{name: GREETING, value: there}],
  readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1},
  securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true}}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}`

func TestCluster(t *testing.T) {
	begin := time.Now()
	c := StartClusterT(t, ClusterConfig{DNS: true})
	t.Logf("ready after %v", time.Since(begin))
	ctx := soon(t)
	if err := c.Apply(ctx, podManifest); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	t.Run("exec with input", func(t *testing.T) {
		cmd := c.KubectlCommand(ctx, c.AdminKubeconfig, "exec", "-i", "web", "--", "sha256sum")
		cmd.Stdin = strings.NewReader("hello\n")
		got, err := output(cmd)
		if err != nil || !strings.HasPrefix(got, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03") {
			t.Errorf("sha256sum = %q, %v", got, err)
		}
	})
	t.Run("cluster DNS knows the Service", func(t *testing.T) {
		got, err := c.Kubectl(ctx, "exec", "web", "--", "/bin/web", "get", "http://web.default.svc.cluster.local/")
		if err != nil || !strings.Contains(got, "hello from web there") {
			t.Errorf("get = %q, %v", got, err)
		}
	})
	t.Run("Pods reach the API server with their own token", func(t *testing.T) {
		got, err := c.Kubectl(ctx, "exec", "web", "--", "/bin/web", "get", "https://kubernetes.default.svc/version")
		if err != nil || !strings.Contains(got, "gitVersion") {
			t.Errorf("get = %q, %v", got, err)
		}
	})
	t.Run("Pods reach the machine by name", func(t *testing.T) { machineByName(t, c) })
	t.Run("the machine reaches Pods", func(t *testing.T) { transferBothWays(t, c) })
	t.Run("logs", func(t *testing.T) {
		got, err := c.Kubectl(ctx, "logs", "web")
		if err != nil || !strings.Contains(got, "listening on :8080") {
			t.Errorf("logs = %q, %v", got, err)
		}
	})
	nothingStays(t, c)
}

func machineByName(t *testing.T, c *Cluster) {
	listener, err := net.Listen("tcp", net.JoinHostPort(MachineIP, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "machine here") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Kubectl(soon(t), "exec", "web", "--", "/bin/web", "get", "http://"+net.JoinHostPort(MachineName, port))
	if err != nil || !strings.Contains(got, "machine here") {
		t.Errorf("get = %q, %v", got, err)
	}
	server.Close()
	<-served
}

// transferBothWays moves a mebibyte to the Pod's transfer service and back.
func transferBothWays(t *testing.T, c *Cluster) {
	const size = 1 << 20
	address, err := c.Kubectl(soon(t), "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "9001"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "get %d\n", size)
	got := make([]byte, size)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	for i, b := range got {
		if b != byte(i%251) {
			t.Fatalf("byte %d = %d, want %d", i, b, i%251)
		}
	}
	fmt.Fprintf(conn, "put %d\n%s", 6, "hello\n")
	sum := make([]byte, 65)
	if _, err := io.ReadFull(conn, sum); err != nil {
		t.Fatal(err)
	}
	if want := "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\n"; string(sum) != want {
		t.Errorf("sum = %s, want %s", sum, want)
	}
}

// nothingStays stops the cluster and looks for what it could leave on the machine.
func nothingStays(t *testing.T, c *Cluster) {
	begin := time.Now()
	c.Stop()
	t.Logf("stopped after %v", time.Since(begin))
	if _, err := os.Stat("/sys/class/net/" + link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link %s is still there: %v", link, err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s: %v, want it gone", c.Dir, err)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(c.Dir)) {
		t.Error("mounts of the node are still there")
	}
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods", "/sys/fs/cgroup/memory/kubepods"} {
		if _, err := os.Stat(pattern); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cgroup %s: %v, want it gone", pattern, err)
		}
	}
}
