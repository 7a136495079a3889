package agentauth

import (
	"context"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// lookupTimeout bounds one look-up: it serves every RPC of a token and so hangs on none of them.
	lookupTimeout = 30 * time.Second
	// maxLookups bounds the look-ups under way. After a restart thousands of agents come at once: they queue here, for as long as
	// it takes, and not at the backend, whose calls are counted and where requests of users wait for their turn as well.
	maxLookups = 100
	// maxCached bounds the cache; refusals of made-up tokens fill it too.
	maxCached = 50_000
)

// resolver turns tokens into agents.
type resolver struct {
	cfg Config
	// base ends look-ups under way at the end.
	base context.Context
	stop context.CancelFunc
	busy sync.WaitGroup
	// places holds a token for every look-up under way.
	places chan struct{}

	// mu guards the fields below. epoch counts forget calls: an answer that was asked for before one is not kept.
	mu     sync.Mutex
	closed bool
	epoch  uint64
	cache  map[tokenKey]answer
	flying map[tokenKey]*lookup
}

type answer struct {
	agent   backend.Agent
	err     error
	asked   time.Time
	expires time.Time
}

// lookup is a question in the queue or under way; answer may be read when done is closed.
type lookup struct {
	done   chan struct{}
	cancel context.CancelFunc
	answer

	// Guarded by the resolver's mu: how many wait for the answer, and whether it was asked for.
	waiting int
	begun   bool
}

func newResolver(cfg Config) *resolver {
	r := &resolver{cfg: cfg, cache: make(map[tokenKey]answer), flying: make(map[tokenKey]*lookup), places: make(chan struct{}, maxLookups)}
	r.base, r.stop = context.WithCancel(context.Background())
	return r
}

// agent answers from the cache, or joins or starts a look-up.
func (r *resolver) agent(ctx context.Context, token string, key tokenKey) (backend.Agent, error) {
	if r.cfg.Instant {
		return r.cfg.Backend.AgentByToken(ctx, token)
	}
	return r.resolve(ctx, token, key, false)
}

// resolve looks into the cache unless anew is set.
func (r *resolver) resolve(ctx context.Context, token string, key tokenKey, anew bool) (backend.Agent, error) {
	r.mu.Lock()
	if known, ok := r.cache[key]; ok && !anew {
		if time.Now().Before(known.expires) {
			r.mu.Unlock()
			return known.agent, known.err
		}
		delete(r.cache, key)
	}
	question := r.flying[key]
	if question == nil {
		if r.closed {
			r.mu.Unlock()
			return backend.Agent{}, fault.New(fault.Unavailable, fault.Kas, "kas is shutting down")
		}
		question = r.begin(token, key, anew)
	}
	question.waiting++
	r.mu.Unlock()
	select {
	case <-question.done:
		return question.agent, question.err
	case <-ctx.Done():
		r.leave(question, key)
		return backend.Agent{}, fault.Wrap(fault.KindOf(ctx.Err()), fault.Agent, ctx.Err(), "agent token look-up")
	}
}

// begin starts a look-up; r.mu is held.
func (r *resolver) begin(token string, key tokenKey, anew bool) *lookup {
	ctx, cancel := context.WithCancel(r.base)
	question := &lookup{done: make(chan struct{}), cancel: cancel}
	r.flying[key] = question
	r.busy.Go(func() {
		defer cancel()
		r.ask(ctx, question, token, key, anew)
	})
	return question
}

// leave gives up waiting. A question that nobody waits for leaves the queue too; one that was asked is answered all the same.
func (r *resolver) leave(question *lookup, key tokenKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	question.waiting--
	if question.waiting > 0 || question.begun {
		return
	}
	question.cancel()
	if r.flying[key] == question {
		delete(r.flying, key)
	}
}

// ask waits for its turn, asks the backend and keeps the answer if it may be kept.
func (r *resolver) ask(ctx context.Context, question *lookup, token string, key tokenKey, anew bool) {
	select {
	case r.places <- struct{}{}:
		defer func() { <-r.places }()
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	r.mu.Lock()
	question.begun = true
	epoch := r.epoch
	r.mu.Unlock()
	question.asked = time.Now()
	var ttl time.Duration
	if ctx.Err() != nil {
		question.err = fault.Wrap(fault.Unavailable, fault.Kas, ctx.Err(), "agent token look-up")
	} else {
		question.agent, ttl, question.err = r.consult(ctx, token, key, anew)
	}
	now := time.Now()
	question.expires = now.Add(ttl)

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flying[key] == question {
		delete(r.flying, key)
	}
	if ttl > 0 && epoch == r.epoch {
		r.makeRoom(now)
		r.cache[key] = question.answer
	}
	close(question.done)
}

// makeRoom drops what has expired, or else anything, when the cache is full; r.mu is held.
func (r *resolver) makeRoom(now time.Time) {
	if len(r.cache) < maxCached {
		return
	}
	for key, known := range r.cache {
		if now.After(known.expires) {
			delete(r.cache, key)
		}
	}
	for key := range r.cache {
		if len(r.cache) < maxCached {
			return
		}
		delete(r.cache, key)
	}
}

// forget drops all answers, also those still under way.
func (r *resolver) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	clear(r.cache)
	clear(r.flying)
}

// close ends look-ups and waits for them.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.busy.Wait()
}

// refused tells an answer about the token from trouble on the way to it.
func refused(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unauthenticated, fault.PermissionDenied, fault.NotFound:
		return true
	default:
		return false
	}
}
