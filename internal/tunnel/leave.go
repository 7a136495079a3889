package tunnel

// Leave ends the parked streams of a pod that is about to stop, with OK, and those that it would still park. Its calls in flight
// go on. The pod waits for that: if it ended its streams itself, one might have been given a call in the same moment, and nobody
// could tell whether the call had begun.
func (r *Registry) Leave(agentID, pod int64) {
	s := r.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	if a == nil || pod == 0 {
		return
	}
	for _, c := range a.conns {
		if c.desc.pod != pod {
			continue
		}
		c.leaving = true
		for e := c.idle.Front(); e != nil; e = c.idle.Front() {
			t := e.Value.(*stream)
			c.idle.Remove(e)
			t.element = nil
			close(t.retired)
		}
	}
}
