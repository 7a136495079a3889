package agentauth

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// Refusals are shared with the other replicas of kas, so that an agent with a token that GitLab refuses costs GitLab one call at a time
// and not one for each replica that the agent reaches.
type Refusals interface {
	// Refuse remembers for ttl that key was refused, and why.
	Refuse(ctx context.Context, key, reason string, ttl time.Duration) error
	// Refused says why a key was refused, and for how long that holds; 0: it was not.
	Refused(ctx context.Context, key string) (reason string, left time.Duration, err error)
}

// sharable are the kinds of refusals by the word that starts their reason.
var sharable = map[string]fault.Kind{
	fault.Unauthenticated.String():  fault.Unauthenticated,
	fault.PermissionDenied.String(): fault.PermissionDenied,
	fault.NotFound.String():         fault.NotFound,
}

// consult asks the backend, unless another replica knows already that it refuses the token; ttl is how long the answer may be kept.
// Trouble with what is shared is none for the agent: then the backend is asked.
func (r *resolver) consult(ctx context.Context, token string, key tokenKey, anew bool) (agent backend.Agent, ttl time.Duration, err error) {
	shared := r.cfg.Refusals
	if r.cfg.CacheTTL <= 0 || r.cfg.ErrorTTL <= 0 {
		shared = nil
	}
	if shared != nil && !anew {
		if left, err := r.refusedElsewhere(ctx, key); err != nil {
			return backend.Agent{}, left, err
		}
	}
	agent, err = r.cfg.Backend.AgentByToken(ctx, token)
	switch {
	case err == nil:
		return agent, r.cfg.CacheTTL, nil
	case r.cfg.CacheTTL <= 0 || !refused(err):
		return agent, 0, err
	}
	if shared != nil {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if err := shared.Refuse(bounded, sharedKey(key), reasonOf(err), r.cfg.ErrorTTL); err != nil {
			r.cfg.Log.Warn("A refusal of GitLab is not shared with other kas", zap.Error(err))
		}
	}
	return agent, r.cfg.ErrorTTL, err
}

// refusedElsewhere is the refusal that another replica got, nil if there is none or nobody can say.
func (r *resolver) refusedElsewhere(ctx context.Context, key tokenKey) (left time.Duration, refusal error) {
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	reason, left, err := r.cfg.Refusals.Refused(bounded, sharedKey(key))
	if err != nil {
		r.cfg.Log.Warn("Cannot see whether other kas know of a refusal of GitLab", zap.Error(err))
		return 0, nil
	}
	word, text, _ := strings.Cut(reason, ": ")
	kind, known := sharable[word]
	if left <= 0 || !known {
		return 0, nil
	}
	// Clocks of replicas differ.
	return min(left, r.cfg.ErrorTTL), fault.New(kind, fault.GitLab, "%s", text)
}

// reasonOf is the kind of a refusal and what the agent reads of it; the cause stays here.
func reasonOf(err error) string {
	text := ""
	var known *fault.Error
	if errors.As(err, &known) {
		text = known.Msg
	}
	return fault.KindOf(err).String() + ": " + text
}

// sharedKey names a token in the shared store. Only refused ones are written there: no hash of a good token is.
func sharedKey(key tokenKey) string { return "agent:" + hex.EncodeToString(key[:]) }
