package gitlab

import (
	"net/http"
	"testing"

	"gitlab.com/agentk/agentk/internal/fault"
)

// paths answers per path, and with 404 at all others.
func paths(answers map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if answer := answers[req.URL.Path]; answer != nil {
			answer(w, req)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}
}

// The question who an agent is has another path in newer GitLabs, which will know it by that one only.
func TestAgentInfo_Moves(t *testing.T) {
	const oldPath, newPath = prefix + agentInfoPath, prefix + newAgentInfoPath
	r := newRails(t, nil)
	c := r.start()
	c.form.Store(formHeader)
	for i, step := range []struct {
		answers  map[string]http.HandlerFunc
		want     fault.Kind
		known    bool
		requests int
	}{
		{map[string]http.HandlerFunc{oldPath: ok(agentInfoJSON)}, 0, true, 1},
		{nil, fault.NotFound, false, 2},
		{map[string]http.HandlerFunc{newPath: bare(http.StatusUnauthorized)}, fault.NotFound, false, 2},
		{map[string]http.HandlerFunc{newPath: bare(http.StatusBadGateway)}, fault.Unavailable, false, 2},
		{map[string]http.HandlerFunc{newPath: ok(agentInfoJSON)}, 0, true, 2},
		{map[string]http.HandlerFunc{newPath: ok(agentInfoJSON)}, 0, true, 1},
		{map[string]http.HandlerFunc{newPath: bare(http.StatusUnauthorized)}, fault.Unauthenticated, false, 1},
		{map[string]http.HandlerFunc{oldPath: ok(agentInfoJSON)}, 0, true, 2}, // a GitLab that was taken back
		{map[string]http.HandlerFunc{oldPath: ok(agentInfoJSON)}, 0, true, 1},
	} {
		r.set(paths(step.answers))
		agent, err := c.AgentByToken(within(t), agentToken)
		if known := err == nil && agent.ID == 7; known != step.known || !known && fault.KindOf(err) != step.want {
			t.Errorf("step %d: %v, %v", i, agent, err)
		}
		if n := len(r.requests()); n != step.requests {
			t.Errorf("step %d took %d requests, want %d", i, n, step.requests)
		}
	}
}
