package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	clusterNodes = 3
	clusterSlots = 16384
	// nodeTimeout is after how many milliseconds of silence the nodes take another one for dead, and the cluster for broken: more than a
	// machine that is busy with other tests lets one wait. A test that waits for just that sets less, in Config.Lines.
	nodeTimeout = 15_000
)

// Cluster is a Redis cluster of three masters without replicas, in "cluster mode".
type Cluster struct {
	Nodes []*Server
}

// StartClusterT starts a cluster for one test and ends it afterwards.
func StartClusterT(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = tempDir(t)
	}
	c, err := StartCluster(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			node.finish(t)
		}
	})
	return c
}

// StartCluster starts a cluster and waits until all its nodes serve all slots. Each node is run as cfg says, in a folder below
// cfg.Dir; cfg.Port is ignored.
func StartCluster(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{}
	if err := c.start(ctx, cfg); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, cfg Config) error {
	if cfg.TLS {
		return errors.New("redis: a Cluster has no TLS")
	}
	var buses []int
	for i := range clusterNodes {
		bus, err := freePort()
		if err != nil {
			return err
		}
		node := cfg
		node.Dir, node.Port = filepath.Join(cfg.Dir, fmt.Sprintf("node%d", i)), 0
		node.Lines = append([]string{"cluster-enabled yes", fmt.Sprint("cluster-node-timeout ", nodeTimeout), "cluster-port " + strconv.Itoa(bus)}, cfg.Lines...)
		if err := os.Mkdir(node.Dir, 0o700); err != nil {
			return err
		}
		server, err := Start(ctx, node)
		if err != nil {
			return err
		}
		c.Nodes, buses = append(c.Nodes, server), append(buses, bus)
	}
	for i, node := range c.Nodes {
		first, last := i*clusterSlots/clusterNodes, (i+1)*clusterSlots/clusterNodes-1
		if _, err := node.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)); err != nil {
			return fmt.Errorf("add slots: %w", err)
		}
		if i == 0 {
			continue
		}
		if _, err := c.Nodes[0].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(node.port), strconv.Itoa(buses[i])); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	return c.WaitServing(ctx)
}

// WaitServing waits until every node says that the whole cluster is served.
func (c *Cluster) WaitServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, node := range c.Nodes {
		err := node.wait(ctx, "cluster state", func(ctx context.Context) error {
			info, err := node.Do(ctx, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", clusterNodes)) {
				return errors.New(info)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Addresses are those of the nodes.
func (c *Cluster) Addresses() []string {
	var list []string
	for _, node := range c.Nodes {
		list = append(list, node.Address())
	}
	return list
}

// Close ends all nodes. It may be called more than once.
func (c *Cluster) Close() {
	for _, node := range c.Nodes {
		node.Close()
	}
}
