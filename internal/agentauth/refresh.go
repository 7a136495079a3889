package agentauth

import (
	"context"
	"time"

	"gitlab.com/agentk/agentk/internal/backend"
)

const (
	// refreshShare is the part of the refresh period after which an answer is due: the rest is for retries, and for the queue
	// in front of a slow backend.
	refreshShare = 0.75
	// refreshSteps is how often in a period the live tokens are looked at.
	refreshSteps = 12
)

// refreshTicks is nil, which never ticks, without a refresh period.
func (a *Authenticator) refreshTicks() (<-chan time.Time, func()) {
	if a.cfg.RefreshPeriod <= 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(max(a.cfg.RefreshPeriod/refreshSteps, time.Millisecond))
	return ticker.C, ticker.Stop
}

// refresh asks again about live tokens whose last answer is getting old. The old answer serves meanwhile, and stays while the
// backend cannot be asked.
func (a *Authenticator) refresh(ctx context.Context) {
	due := time.Now().Add(-time.Duration(refreshShare * float64(a.cfg.RefreshPeriod)))
	a.forLive(func(t *liveToken) bool {
		return !a.agents.askedSince(t.key, due) && !t.asked.After(due)
	}, func(t *liveToken) {
		agent, err := a.agents.renew(ctx, t.token, t.key)
		if a.judge(t, agent, err) {
			t.asked = time.Now()
		}
	})
}

// askedSince says whether there is an answer about a token that was asked for after since.
func (r *resolver) askedSince(key tokenKey, since time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.cache[key]
	return ok && known.asked.After(since)
}

// renew asks the backend although there may be an answer.
func (r *resolver) renew(ctx context.Context, token string, key tokenKey) (backend.Agent, error) {
	return r.resolve(ctx, token, key, true)
}
