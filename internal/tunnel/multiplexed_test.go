package tunnel

import "testing"

// idleOf is how many streams a pod has parked.
func (l *line) idleOf(pod int64) int {
	s := l.registry.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := 0
	if s.agents[agentID] == nil {
		return idle
	}
	for _, c := range s.agents[agentID].conns {
		for e := c.idle.Front(); e != nil; e = e.Next() {
			if e.Value.(*stream).desc.pod == pod {
				idle++
			}
		}
	}
	return idle
}

// A reverse proxy may carry the streams of several pods on one connection to kas. The end of one pod is not the end of the others.
func TestLeave_PodsOnOneConnection(t *testing.T) {
	l := newLine(t)
	conn := l.dial()
	for pod := int64(1); pod <= 2; pod++ {
		l.pod(PoolConfig{Client: conn, Pod: pod})
		eventually(t, "the pod is there", func() bool { return l.idleOf(pod) == minIdle })
	}
	running := l.open(l.ctx()) // keeps the connection in use
	l.registry.Leave(agentID, 1)
	if idle := l.idleOf(1); idle != 0 {
		t.Errorf("the pod that leaves has %d streams", idle)
	}
	if err := l.call(); err != nil {
		t.Error(err)
	}
	eventually(t, "the other pod has streams", func() bool { return l.idleOf(2) >= minIdle })
	running.Finish(false)
}
