//go:build e2e

package middlebox

import (
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

func TestNginx(t *testing.T) {
	t.Parallel()
	n := reserveNginx(t)
	agents, jobs := pairs("nginx-ws", "nginx-grpc", "nginx-no-slash", "nginx-wrong-path")
	for i, address := range []string{
		n.agentURL(), n.nativeURL(), strings.TrimSuffix(n.agentURL(), "/"), "wss://" + n.address + "/agents/",
	} {
		agents[i].KasAddress = address
	}
	l := line.StartT(t, line.Config{
		ControlPlane: cluster, Agents: agents, Jobs: jobs, PlainProxy: true,
		ExtraKasYAML: "standalone: {kubernetes_api_url: '" + n.jobURL() + "'}",
	})
	n.serve(t, l, "")

	t.Run("websocket", func(t *testing.T) {
		connect(t, l, "nginx-ws")
		workThrough(t, l, 1, "nginx-ws")
	})
	t.Run("grpc", func(t *testing.T) {
		connect(t, l, "nginx-grpc")
		workThrough(t, l, 2, "nginx-grpc")
	})
	t.Run("no trailing slash", func(t *testing.T) {
		wantLine(t, "log of the agent", launch(t, l, "nginx-no-slash"),
			"Cannot connect to gRPC server", "got 301", "final URL", "trailing slash", "/-/kubernetes-agent/")
	})
	t.Run("wrong path", func(t *testing.T) {
		wantLine(t, "log of the agent", launch(t, l, "nginx-wrong-path"),
			"Cannot connect to gRPC server", "got 404", "reverse proxy in front of kas", "404 Not Found")
	})
}

func TestNginx_HeaderAndOutage(t *testing.T) {
	t.Parallel()
	const edgeKey = "edge-4711-key"
	n := reserveNginx(t)
	agents, jobs := pairs("edge-ws", "edge-grpc", "edge-no-key", "edge-grpc-no-key")
	for i, address := range []string{n.agentURL(), n.nativeURL(), n.agentURL(), n.nativeURL()} {
		agents[i].KasAddress = address
	}
	agents[0].Args = []string{"--kas-header", "X-Edge-Key: " + edgeKey}
	agents[1].Args = agents[0].Args
	l := line.StartT(t, line.Config{
		ControlPlane: cluster, Agents: agents, Jobs: jobs, PlainProxy: true,
		ExtraKasYAML: "standalone: {kubernetes_api_url: '" + n.jobURL() + "'}",
	})
	n.serve(t, l, edgeKey)

	wantLine(t, "log of the agent without the header", launch(t, l, "edge-no-key"), "got 403", "something in front of kas refuses")
	wantLine(t, "log of nginx", n.accessLog(t), "GET /-/kubernetes-agent/", " 403 ", "edge_key=-")
	wantLine(t, "log of the gRPC agent without the header", launch(t, l, "edge-grpc-no-key"),
		"Cannot connect to gRPC server", "got 403", "something in front of kas refuses")
	for job, agent := range map[int64]string{1: "edge-ws", 2: "edge-grpc"} {
		connect(t, l, agent)
		kubectl(t, l, job, "get", "namespaces")
	}
	for _, agent := range []string{"edge-no-key", "edge-grpc-no-key"} {
		if _, err := l.KillAgent(soon(t), agent); err != nil {
			t.Error(err)
		}
	}

	stopped, stoppedNative := mark(l, "edge-ws"), mark(l, "edge-grpc")
	if _, err := l.StopKas(soon(t)); err != nil {
		t.Fatal(err)
	}
	wantLine(t, "log of the agent while kas is down", stopped, "got 502", "reverse proxy in front of kas", "kas is not running", "502 Bad Gateway")
	wantLine(t, "log of the gRPC agent while kas is down", stoppedNative,
		"Cannot connect to gRPC server", "got 502", "reverse proxy in front of kas", "kas is not running")
	if err := l.StartKas(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantLine(t, "log of the agent", stopped, "Connected to gRPC server")
	wantLine(t, "log of the gRPC agent", stoppedNative, "Connected to gRPC server")
	if got := strings.Count(stoppedNative(), "Cannot connect to gRPC server"); got != 1 {
		t.Errorf("the gRPC agent says %d times that something else answers, want once", got)
	}
	if strings.Contains(stoppedNative(), "<html") {
		t.Error("the log of the gRPC agent quotes a page")
	}
	for job := range int64(2) {
		kubectl(t, l, job+1, "get", "namespaces")
	}
	for name, log := range l.Logs() {
		if strings.Contains(log, edgeKey) {
			t.Errorf("the log of %s shows the value of a header for kas", name)
		}
	}
	wantLine(t, "log of nginx", n.accessLog(t), "GET /-/kubernetes-agent/", " 101 ", "edge_key="+edgeKey)
}
