package agentauth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// recheckWorkers bounds the look-ups a change causes at a time.
	recheckWorkers = 8
	// recheckAgain is when tokens whose check met trouble are looked at again.
	recheckAgain = 10 * time.Second
)

// liveToken is a token with sessions.
type liveToken struct {
	token    string
	key      tokenKey
	asked    time.Time // when the backend answered last, at the latest when the session began; only the loop of Run uses it
	agentID  int64     // 0: not known yet; guarded by the Authenticator's mu, as are the sessions
	sessions map[*session]struct{}
}

type session struct{ cancel context.CancelCauseFunc }

// Session returns a context for a long-lived stream that ends with an Unauthenticated fault as its cause when the stream's
// token stops being valid. The returned function ends the session; it must be called when the stream ends.
func (a *Authenticator) Session(ctx context.Context) (context.Context, func()) {
	r := rpcOf(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	if r == nil {
		cancel(errNoBearer)
		return ctx, func() {}
	}
	s := &session{cancel: cancel}
	a.mu.Lock()
	token := a.live[r.key]
	if token == nil {
		token = &liveToken{token: r.token, key: r.key, asked: time.Now(), sessions: make(map[*session]struct{})}
		a.live[r.key] = token
	}
	token.sessions[s] = struct{}{}
	if token.agentID == 0 {
		token.agentID = r.agentID.Load()
	}
	a.mu.Unlock()
	if r.generation.Load() != a.generation.Load() {
		// The token was resolved before a change whose check may have missed this session.
		a.requestRecheck()
	}
	return ctx, func() {
		a.mu.Lock()
		delete(token.sessions, s)
		if len(token.sessions) == 0 && a.live[r.key] == token {
			delete(a.live, r.key)
		}
		a.mu.Unlock()
		cancel(context.Canceled)
	}
}

// Live is how many tokens have sessions, which is about how many agents there are.
func (a *Authenticator) Live() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.live)
}

func (a *Authenticator) requestRecheck() {
	select {
	case a.recheck <- struct{}{}:
	default:
	}
}

// revalidate checks every live token once and ends the sessions of those that are refused. It says whether all could be checked.
func (a *Authenticator) revalidate(ctx context.Context) bool {
	var trouble atomic.Bool
	a.forLive(func(*liveToken) bool { return true }, func(t *liveToken) {
		agent, err := a.agents.agent(ctx, t.token, t.key)
		if !a.judge(t, agent, err) {
			trouble.Store(true)
		}
	})
	return !trouble.Load()
}

// forLive calls do, by several workers, for the live tokens that are wanted.
func (a *Authenticator) forLive(wanted func(*liveToken) bool, do func(*liveToken)) {
	a.mu.Lock()
	tokens := make(chan *liveToken, len(a.live))
	for _, t := range a.live {
		tokens <- t
	}
	a.mu.Unlock()
	close(tokens)
	var workers sync.WaitGroup
	for range min(recheckWorkers, len(tokens)) {
		workers.Go(func() {
			for t := range tokens {
				if wanted(t) {
					do(t)
				}
			}
		})
	}
	workers.Wait()
}

// judge ends the sessions of a token that is refused, or that stands for another agent now. It says whether the question about
// it could be answered.
func (a *Authenticator) judge(t *liveToken, agent backend.Agent, err error) bool {
	if err != nil && !refused(err) {
		return false
	}
	a.mu.Lock()
	if err == nil && (t.agentID == 0 || t.agentID == agent.ID) {
		t.agentID = agent.ID
		a.mu.Unlock()
		return true
	}
	sessions, agentID := t.sessions, t.agentID
	t.sessions = make(map[*session]struct{})
	if a.live[t.key] == t {
		delete(a.live, t.key)
	}
	if len(sessions) > 0 && agentID != 0 {
		a.lost[agentID] = time.Now()
	}
	a.mu.Unlock()
	if len(sessions) > 0 {
		a.cfg.Log.Info("Agent token is no longer valid, ending its streams",
			zap.Int64("agent_id", agentID), zap.Int("count", len(sessions)))
	}
	revoked := fault.New(fault.Unauthenticated, fault.Agent, "unauthenticated")
	for s := range sessions {
		s.cancel(revoked)
	}
	return true
}
