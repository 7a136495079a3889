package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

const (
	// prepareNode is the command that builds and installs what a node needs.
	prepareNode = "go run ./test/kube/build node"
	// nodeLimit covers a cluster of somebody else that has to end first: there is one per machine.
	nodeLimit = 3 * time.Minute
	nodeAgent = "node"
)

// sinkPod is the Pod that takes the bytes.
var sinkPod = fmt.Sprintf(`
{apiVersion: v1, kind: Pod, metadata: {name: sink, namespace: default}, spec: {terminationGracePeriodSeconds: 0, containers: [{
 name: sink, image: "local/bench-sink:1", args: [listen, ":%[1]d", "%[2]d"], startupProbe: {tcpSocket: {port: %[1]d}, periodSeconds: 1}}]}}`, sinkPort, moved)

// nodeSessions is what users of exec and port-forward see: kube-apiserver, kubelet and a container on both sides.
func nodeSessions(ctx context.Context, st *stage) ([]row, error) {
	st.progress("starting a cluster with a node")
	n, err := startNode(ctx)
	if err != nil {
		return nil, fmt.Errorf("a cluster with a node, which root prepares with %q: %w", prepareNode, err)
	}
	defer n.stop()
	return calmly(ctx, n.daemons(), st.progress, func() ([]row, error) {
		rows, err := st.sessions(ctx, way{n.direct, n.through, n.l, nodeAgent}, "", most(ratio, 1.3))
		if err != nil {
			return rows, err
		}
		direct, line, err := alternate(ctx, st.effort, n.direct.keystrokes, n.through.keystrokes)
		if err != nil {
			return rows, fmt.Errorf("echo: %w", err)
		}
		return append(rows, figure("echo_p50_ms", "ms", direct, line, most(added, 0.3))), nil
	})
}

// nodeBed is a cluster with a real node and a Pod on it that takes bytes, and a line of its own in front of it.
type nodeBed struct {
	dir             string
	cluster         *kube.Cluster
	l               *line.Line
	direct, through target
}

func startNode(ctx context.Context) (*nodeBed, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "bench-node-")
	if err != nil {
		return nil, err
	}
	n := &nodeBed{dir: dir}
	if err := n.start(ctx); err != nil {
		n.stop()
		return nil, err
	}
	return n, nil
}

func (n *nodeBed) start(ctx context.Context) error {
	image, err := n.sinkImage(ctx)
	if err != nil {
		return err
	}
	if n.cluster, err = kube.StartCluster(ctx, kube.ClusterConfig{Images: []string{image}}); err != nil {
		return err
	}
	if err := n.cluster.Apply(ctx, jobsMayAll+"\n---"+sinkPod); err != nil {
		return err
	}
	n.l, err = line.Start(ctx, line.Config{
		ControlPlane: n.cluster.ControlPlane,
		Agents:       []line.Agent{{ID: 7, Name: nodeAgent, Project: "acme/infra", Config: line.CIAccess("{ci_job: {}}", project)}},
		Jobs:         []line.Job{{ID: job, Project: project}},
	})
	if err != nil {
		return err
	}
	if n.through, err = throughLine(n.l, nodeAgent); err != nil {
		return err
	}
	if n.direct, err = n.through.straight(ctx, n.cluster.ControlPlane, nodeAgent); err != nil {
		return err
	}
	n.through.client.CloseIdleConnections()
	_, err = n.cluster.Kubectl(ctx, "--namespace", "default", "wait", "--for=condition=Ready", "pod/sink", "--timeout=90s")
	return err
}

// sinkImage builds the image of the Pod.
func (n *nodeBed) sinkImage(ctx context.Context) (string, error) {
	program, tarball := filepath.Join(n.dir, "sink"), filepath.Join(n.dir, "sink.tar")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "gitlab.com/agentk/agentk/test/bench/sink")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // there is no C library in the image
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the sink: %w\n%s", err, out)
	}
	image := kube.Image{Name: "local/bench-sink:1", Entrypoint: []string{"/sink"}, Files: map[string]string{"/sink": program}}
	return tarball, image.Write(tarball)
}

// daemons are those whose goroutines have to go back to what they were.
func (n *nodeBed) daemons() []watched {
	return []watched{
		{name: "kas", pid: n.l.KasPID(), page: n.l.KasPage},
		{name: "agentk", pid: n.l.AgentPID(nodeAgent), page: func(ctx context.Context, path string) (string, error) {
			return n.l.AgentPage(ctx, nodeAgent, path)
		}},
	}
}

func (n *nodeBed) stop() {
	if n.l != nil {
		n.l.Stop()
	}
	if n.cluster != nil {
		n.cluster.Stop()
	}
	_ = os.RemoveAll(n.dir)
}
