package k8sproxy

import (
	"sync"

	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

// granted is an answer of the outside world with the grants that were made of it: who a request becomes, and how that is written, is
// the same for all requests that the answer lets in.
type granted[T any] struct {
	answer T

	mu sync.Mutex
	// mu guards grants, by agent. Refusals are not kept: there may be one for every agent that a client can think of.
	grants map[int64]grant
}

// grant returns what build has made of the answer for an agent.
func (a *granted[T]) grant(agentID int64, build func(T) (grant, *refusal)) (grant, *refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g, ok := a.grants[agentID]; ok {
		return g, nil
	}
	g, why := build(a.answer)
	if why != nil {
		return g, why
	}
	if g.identity != nil {
		var err error
		if g.extra, err = anypb.New(&kubernetesapi.HeaderExtra{ImpConfig: g.identity}); err != nil {
			return grant{}, noIdentity(err)
		}
	}
	if a.grants == nil {
		a.grants = map[int64]grant{}
	}
	a.grants[agentID] = g
	return g, nil
}
