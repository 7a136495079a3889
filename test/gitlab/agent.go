package gitlab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"time"
)

const (
	// activeTokens is how many an agent may have, so that one can replace the other.
	activeTokens = 2
	// connectedFor is how long after the last use of a token the user interface says "Connected".
	connectedFor = 8 * time.Minute
)

// ErrTooManyTokens says that an agent has two active tokens already.
var ErrTooManyTokens = errors.New("an agent can have only two active tokens at a time")

var agentName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Agent is a registered agent.
type Agent struct {
	ID            int64
	Name, Project string
}

// Token is an agent's token.
type Token struct {
	ID, AgentID int64
	Name        string
	// Value is the secret.
	Value   string
	Revoked bool
	Created time.Time
	// LastUsed is when an agent was last identified by it; zero: never.
	LastUsed time.Time
}

type agent struct {
	ID      int64
	name    string
	project *Project
	created time.Time
	tokens  []*Token
	// What kas posted last, how often it did, and what followed from it.
	configuration map[string]any
	posts         int
	ciAccess      []authorization
	userAccess    []authorization
	ignored       []Ignored
}

// AddAgent registers an agent.
func (g *GitLab) AddAgent(a Agent) (Agent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	project := g.db.project(a.Project)
	if project == nil {
		return Agent{}, fmt.Errorf("project %q: %w", a.Project, ErrNotFound)
	}
	created, err := g.db.addAgent(a.ID, a.Name, project, g.cfg.Now())
	if err != nil {
		return Agent{}, err
	}
	return Agent{ID: created.ID, Name: created.name, Project: project.Path}, nil
}

func (d *database) addAgent(id int64, name string, project *Project, now time.Time) (*agent, error) {
	if !agentName.MatchString(name) {
		return nil, fmt.Errorf("agent name %q: not a label of up to 63 lower case letters, digits and inner dashes", name)
	}
	for _, other := range d.agents {
		if other.project == project && other.name == name {
			return nil, fmt.Errorf("agent name %q has already been taken", name)
		}
	}
	created := &agent{ID: d.id(id), name: name, project: project, created: now}
	if d.agents[created.ID] != nil {
		return nil, fmt.Errorf("agent id %d is taken", created.ID)
	}
	d.agents[created.ID] = created
	return created, nil
}

// DeleteAgent deletes an agent with its tokens and authorizations.
func (g *GitLab) DeleteAgent(id int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.db.agents[id] == nil {
		return fmt.Errorf("agent %d: %w", id, ErrNotFound)
	}
	delete(g.db.agents, id)
	return nil
}

// CreateToken makes a token for an agent.
func (g *GitLab) CreateToken(agentID int64) (Token, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.db.agents[agentID]
	if a == nil {
		return Token{}, fmt.Errorf("agent %d: %w", agentID, ErrNotFound)
	}
	token, err := g.db.createToken(a, "token", g.cfg.Now())
	if err != nil {
		return Token{}, err
	}
	return *token, nil
}

func (d *database) createToken(a *agent, name string, now time.Time) (*Token, error) {
	active := 0
	for _, t := range a.tokens {
		if !t.Revoked {
			active++
		}
	}
	if active >= activeTokens {
		return nil, ErrTooManyTokens
	}
	token := &Token{ID: d.id(0), AgentID: a.ID, Name: name, Value: "glagent-" + (rand.Text() + rand.Text())[:50], Created: now}
	a.tokens = append(a.tokens, token)
	return token, nil
}

// RevokeToken revokes a token.
func (g *GitLab) RevokeToken(id int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.db.agents {
		for _, t := range a.tokens {
			if t.ID == id {
				t.Revoked = true
				return nil
			}
		}
	}
	return fmt.Errorf("token %d: %w", id, ErrNotFound)
}

// Tokens are the tokens of an agent, oldest first.
func (g *GitLab) Tokens(agentID int64) []Token {
	g.mu.Lock()
	defer g.mu.Unlock()
	var tokens []Token
	if a := g.db.agents[agentID]; a != nil {
		for _, t := range a.tokens {
			tokens = append(tokens, *t)
		}
	}
	return tokens
}

// AgentStatus is what the user interface says of an agent: "unused" (never connected), "active" (connected) or "inactive".
func (g *GitLab) AgentStatus(agentID int64) string {
	var last time.Time
	for _, t := range g.Tokens(agentID) {
		if t.LastUsed.After(last) {
			last = t.LastUsed
		}
	}
	switch {
	case last.IsZero():
		return "unused"
	case g.cfg.Now().Sub(last) < connectedFor:
		return "active"
	}
	return "inactive"
}

// useToken returns the agent of an active token and notes the use. A value that is no such token's gives nil.
func (d *database) useToken(value string, now time.Time) *agent {
	for _, a := range d.agents {
		for _, t := range a.tokens {
			if t.Value == value && !t.Revoked {
				t.LastUsed = now
				return a
			}
		}
	}
	return nil
}

func (a *agent) configPath() string { return ".gitlab/agents/" + a.name + "/config.yaml" }
