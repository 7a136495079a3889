package server

import "sync"

// maxRefusals bounds the agents of which the last refusal is remembered.
const maxRefusals = 10_000

// refusals remembers what each agent was last refused with: a file that stays wrong is asked for several times a minute and
// should be in the log once.
type refusals struct {
	mu   sync.Mutex
	last map[int64]string // by agent id
}

func newRefusals() *refusals { return &refusals{last: map[int64]string{}} }

// isNew notes a refusal and says whether the agent's last one was another.
func (r *refusals) isNew(agentID int64, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last[agentID] == text {
		return false
	}
	if len(r.last) >= maxRefusals {
		clear(r.last)
	}
	r.last[agentID] = text
	return true
}

func (r *refusals) forget(agentID int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, agentID)
}
