package main

import (
	"context"
	"fmt"
	"time"

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
	scenes  []*scene
	filled  map[bulk]bool
}

// plain is the scene of most figures: ws:// on the agent's link.
func (st *stage) plain(ctx context.Context) (*scene, error) { return st.scene(ctx, line.WS) }

// scene returns the line with a scheme on the agent's link.
func (st *stage) scene(ctx context.Context, scheme string) (*scene, error) {
	for _, s := range st.scenes {
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

// census is how many goroutines there are.
func (st *stage) census(ctx context.Context) string {
	text := "goroutines"
	for _, s := range st.scenes {
		now, err := s.goroutines(ctx)
		if err != nil {
			return err.Error()
		}
		text += fmt.Sprintf(" over %s: %s before, %s now", s.scheme, s.before, now)
	}
	return text
}

// settleLimit is how long surplus streams may take to be retired: a minute parked, and a scan after that.
const settleLimit = 3 * time.Minute

// settled waits until all daemons are as they were; a run that leaks has failed.
func (st *stage) settled(ctx context.Context) error {
	deadline := time.Now().Add(settleLimit)
	for _, s := range st.scenes {
		for {
			now, err := s.goroutines(ctx)
			if err != nil {
				return err
			}
			if now.within(s.before) {
				st.progress(fmt.Sprintf("goroutines over %s before and after: %s and %s", s.scheme, s.before, now))
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("leak over %s: goroutines before: %s, after: %s", s.scheme, s.before, now)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

func (st *stage) close() {
	for _, s := range st.scenes {
		s.l.Stop()
	}
	if st.fake != nil {
		st.fake.stop()
	}
	if st.cluster != nil {
		st.cluster.Stop()
	}
}
