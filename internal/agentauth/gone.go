package agentauth

import (
	"context"
	"time"
)

// goneAfter is how long an agent may take to come back after its last session was ended. One whose token was replaced does so
// with the new one after a second; one that was deleted does not.
const goneAfter = 5 * time.Second

// awaitReturns sets the timer for sayGone if there is anybody to wait for.
func (a *Authenticator) awaitReturns(farewell *time.Timer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var first time.Time
	for _, since := range a.lost {
		if first.IsZero() || since.Before(first) {
			first = since
		}
	}
	if !first.IsZero() {
		farewell.Reset(time.Until(first.Add(goneAfter)))
	}
}

// sayGone tells of the agents that have not come back in time.
func (a *Authenticator) sayGone(ctx context.Context) {
	a.mu.Lock()
	back := make(map[int64]bool, len(a.live))
	for _, t := range a.live {
		back[t.agentID] = true
	}
	var gone []int64
	for id, since := range a.lost {
		if time.Since(since) < goneAfter {
			continue
		}
		delete(a.lost, id)
		if !back[id] {
			gone = append(gone, id)
		}
	}
	a.mu.Unlock()
	if a.cfg.Gone == nil {
		return
	}
	for _, id := range gone {
		a.cfg.Gone(ctx, id)
	}
}
