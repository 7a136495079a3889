package server

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/internal/backend"
)

// maxProjects bounds the answers that are remembered; refusals of made-up projects fill it, too.
const maxProjects = 50_000

// projectKey is the SHA-256 of an agent token and a project: the token is not remembered.
type projectKey [sha256.Size]byte

// projectCache remembers which projects agents may read, and lets one look at a time ask about the same.
type projectCache struct {
	projects      Projects
	ttl, errorTTL time.Duration

	// mu guards answers.
	mu      sync.Mutex
	answers map[projectKey]*projectAnswer
}

// projectAnswer is a question under way until ready is closed; the other fields are set before that.
type projectAnswer struct {
	ready   chan struct{}
	project backend.Project
	err     error
	// usable: this is an answer for everybody, not the trouble of the one who asked. expires is when not for newcomers any more.
	usable  bool
	expires time.Time
}

func newProjectCache(projects Projects, ttl, errorTTL time.Duration) *projectCache {
	return &projectCache{projects: projects, ttl: ttl, errorTTL: errorTTL, answers: map[projectKey]*projectAnswer{}}
}

func (c *projectCache) get(ctx context.Context, token string, agent backend.Agent, id string) (backend.Project, error) {
	if c.ttl == 0 {
		return c.projects.Project(ctx, token, agent, id)
	}
	key := projectKey(sha256.Sum256([]byte(joined([]string{token, id}))))
	for {
		answer, mine := c.claim(key)
		if mine {
			c.ask(ctx, key, answer, token, agent, id)
			return answer.project, answer.err
		}
		select {
		case <-answer.ready:
		case <-ctx.Done():
			return backend.Project{}, ctx.Err()
		}
		if answer.usable {
			return answer.project, answer.err
		}
	}
}

// claim returns the answer for a key, or a new one that the caller has to find.
func (c *projectCache) claim(key projectKey) (answer *projectAnswer, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if known := c.answers[key]; known != nil && !known.expired(now) {
		return known, false
	}
	c.makeRoom(now)
	answer = &projectAnswer{ready: make(chan struct{})}
	c.answers[key] = answer
	return answer, true
}

func (c *projectCache) ask(ctx context.Context, key projectKey, a *projectAnswer, token string, agent backend.Agent, id string) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.answers[key] == a && (!a.usable || a.expired(time.Now())) {
			delete(c.answers, key)
		}
	}()
	defer close(a.ready)
	a.project, a.err = c.projects.Project(ctx, token, agent, id)
	switch {
	case a.err == nil:
		a.usable, a.expires = true, time.Now().Add(c.ttl)
	case refused(a.err):
		a.usable, a.expires = true, time.Now().Add(c.errorTTL)
	}
}

// expired says that an answer is too old. A question under way is not.
func (a *projectAnswer) expired(now time.Time) bool {
	select {
	case <-a.ready:
		return !now.Before(a.expires)
	default:
		return false
	}
}

// makeRoom drops what has expired, or else anything, when the cache is full; mu is held.
func (c *projectCache) makeRoom(now time.Time) {
	if len(c.answers) < maxProjects {
		return
	}
	for key, a := range c.answers {
		if a.expired(now) {
			delete(c.answers, key)
		}
	}
	for key := range c.answers {
		if len(c.answers) < maxProjects {
			return
		}
		delete(c.answers, key)
	}
}
