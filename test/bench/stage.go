package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// stage is what all groups share. What a group needs is started when the first one needs it.
type stage struct {
	effort
	progress func(string)
	// profiles is the folder for profiles; empty: none.
	profiles string

	cluster *kube.ControlPlane
	fake    *fakeProcess
	filled  map[bulk]bool
	burst   *edge // stands by

	mu     sync.Mutex // guards scenes
	scenes []*scene
}

// plain is the scene of most figures: ws:// on the agent's link.
func (st *stage) plain(ctx context.Context) (*scene, error) { return st.scene(ctx, line.WS) }

// scene returns the line with a scheme on the agent's link.
func (st *stage) scene(ctx context.Context, scheme string) (*scene, error) {
	for _, s := range st.running() {
		if s.scheme == scheme {
			return s, nil
		}
	}
	if err := st.startCluster(ctx); err != nil {
		return nil, err
	}
	s, err := st.newScene(ctx, scheme)
	if err != nil {
		return nil, fmt.Errorf("line over %s: %w", scheme, err)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.scenes = append(st.scenes, s)
	return s, nil
}

func (st *stage) startCluster(ctx context.Context) error {
	if st.cluster != nil {
		return nil
	}
	st.progress("starting etcd and kube-apiserver")
	cluster, err := kube.Start(ctx, kube.Config{})
	if err != nil {
		return err
	}
	st.cluster = cluster
	return cluster.Apply(ctx, jobsMayAll)
}

// running are the scenes that were started so far.
func (st *stage) running() []*scene {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.scenes)
}

func (st *stage) close() {
	if st.burst != nil {
		st.burst.close()
	}
	for _, s := range st.running() {
		s.l.Stop()
	}
	if st.fake != nil {
		st.fake.stop()
	}
	if st.cluster != nil {
		st.cluster.Stop()
	}
}
