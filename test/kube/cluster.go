package kube

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"gitlab.com/agentk/agentk/test/tool"
)

const (
	// MachineIP is where Pods reach servers on this machine; the API server listens there too.
	MachineIP = "10.250.0.1"
	// MachineName is the same as a host name, in clusters with DNS.
	MachineName = "machine.test"
	// NodeName is the name of the one node.
	NodeName = "kc-node"

	nodeIP = "10.250.0.2"
	// nodeLock is held while a cluster runs: its addresses exist once per machine.
	nodeLock = "/run/lock/agentk-node.lock"
)

var (
	//go:embed node/coredns.yaml
	dnsManifest string
	//go:embed node/proxier.yaml
	proxierManifest string
)

// ClusterConfig says what a cluster consists of. A cluster always has controllers, a scheduler and one node.
type ClusterConfig struct {
	// Config is that of the control plane; ControllerManager, Scheduler and Host are set.
	Config
	// DNS adds CoreDNS: names of Services, and MachineName. Half a second to three seconds more.
	DNS bool
	// Images are tarballs (see Image) for the node besides those of Images.
	Images []string
}

// Cluster is a control plane with one real node. Pod and Service addresses are reachable from this machine.
type Cluster struct {
	*ControlPlane
	node   *node
	unlock func()
}

// StartCluster brings up a cluster and returns when its node is ready (with DNS: when that answers). It needs root. When another process
// runs a cluster on this machine it waits for the end of that one. ctx bounds the start, not the life: that ends with Stop, or with this
// process.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start cluster: a node needs root")
	}
	if err := installNodePackages(ctx); err != nil {
		return nil, err
	}
	images, err := Images(ctx)
	if err != nil {
		return nil, err
	}
	unlock, err := tool.Lock(ctx, nodeLock)
	if err != nil {
		return nil, err
	}
	c := &Cluster{unlock: unlock}
	if err := c.start(ctx, cfg, images); err != nil {
		c.Stop()
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, cfg ClusterConfig, images string) error {
	cfg.ControllerManager, cfg.Scheduler, cfg.Host = true, true, MachineIP
	var err error
	if c.ControlPlane, err = Start(ctx, cfg.Config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	c.node = &node{dir: filepath.Join(c.Dir, "node"), logs: c.logs(), pki: filepath.Join(c.Dir, "pki"), pause: filepath.Join(images, "pause")}
	if err := c.writeNodeCredentials(); err != nil {
		return err
	}
	if err := c.node.open(ctx); err != nil {
		return err
	}
	for _, name := range []string{"pause.tar", "web.tar", "coredns.tar"} {
		if err := c.Import(ctx, filepath.Join(images, name)); err != nil {
			return err
		}
	}
	for _, image := range cfg.Images {
		if err := c.Import(ctx, image); err != nil {
			return err
		}
	}
	if err := c.startKubelet(ctx); err != nil {
		return err
	}
	if !cfg.DNS {
		return nil
	}
	if err := c.Apply(ctx, dnsManifest); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "--namespace", "kube-system", "rollout", "status", "deployment/coredns", "--timeout", "90s")
	return err
}

// PrepareNode builds and installs what a cluster and its tests need (helm too), so that starting one takes seconds.
func PrepareNode(ctx context.Context) error {
	if err := installNodePackages(ctx); err != nil {
		return err
	}
	if _, err := Images(ctx); err != nil {
		return err
	}
	_, err := Helm(ctx)
	return err
}

// writeNodeCredentials gives kubelet and kube-proxy their identities.
func (c *Cluster) writeNodeCredentials() error {
	etc := filepath.Join(c.node.dir, "etc")
	if err := c.node.makeFolders(); err != nil {
		return err
	}
	serving, err := c.authority.issue("system:node:"+NodeName, []string{"system:nodes"}, NodeName, nodeIP)
	if err != nil {
		return err
	}
	if err := c.writePair("kubelet", serving); err != nil {
		return err
	}
	server := fmt.Sprintf("https://%s:%d", MachineIP, c.port)
	err = c.writeUser(filepath.Join(etc, "kubelet.kubeconfig"), server, "system:node:"+NodeName, []string{"system:nodes"})
	if err != nil {
		return err
	}
	return c.writeUser(filepath.Join(etc, "kube-proxy.kubeconfig"), server, "system:kube-proxy", nil)
}

// startKubelet starts kubelet and kube-proxy and waits until the node says it is ready.
func (c *Cluster) startKubelet(ctx context.Context) error {
	if err := c.Apply(ctx, proxierManifest); err != nil {
		return err
	}
	etc := filepath.Join(c.node.dir, "etc")
	for name, args := range map[string][]string{
		"kubelet": {
			"--config=" + filepath.Join(etc, "kubelet.yaml"), "--kubeconfig=" + filepath.Join(etc, "kubelet.kubeconfig"),
			"--hostname-override=" + NodeName, "--node-ip=" + nodeIP,
		},
		"kube-proxy": {"--config=" + filepath.Join(etc, "kube-proxy.yaml")},
	} {
		path, err := program(ctx, c.Bin, name)
		if err != nil {
			return err
		}
		if err := c.node.spawn(name, path, args...); err != nil {
			return err
		}
	}
	watched := append(c.processes(), c.node.processes...)
	return wait(ctx, "node "+NodeName, watched, func() error { return c.nodeReady(ctx) })
}

func (c *Cluster) nodeReady(ctx context.Context) error {
	var object struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.call(ctx, http.MethodGet, "/api/v1/nodes/"+NodeName, nil, &object); err != nil {
		return err
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.Status == "True" {
			return nil
		}
		return errors.New(condition.Message)
	}
	return errors.New("no condition Ready")
}

// Import brings the image of a tarball to the node.
func (c *Cluster) Import(ctx context.Context, tarball string) error {
	_, err := output(c.node.command(ctx, "ctr", "--namespace", "k8s.io", "images", "import", tarball))
	return err
}

// Stop ends every container, the node and the control plane, and puts the machine back as it was. It may be called more than once.
func (c *Cluster) Stop() {
	if c.node != nil {
		c.node.close()
	}
	if c.ControlPlane != nil {
		c.ControlPlane.Stop()
	}
	c.unlock()
}

// StartClusterT starts a cluster for one test and stops it afterwards. It fails t when it cannot.
func StartClusterT(t testing.TB, cfg ClusterConfig) *Cluster {
	t.Helper()
	c, err := StartCluster(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}
