package gitlab

import (
	"errors"
	"net/http"
	"strconv"
)

// registrationRoutes register agents and make their tokens.
func (g *GitLab) registrationRoutes(public func(string, func(http.ResponseWriter, *http.Request, *User))) {
	const agents, one = "/projects/{project}/cluster_agents", "/projects/{project}/cluster_agents/{agent}"
	public("GET "+agents, g.inProject(Developer, g.listAgents))
	public("POST "+agents, g.inProject(Maintainer, g.postAgent))
	public("GET "+one, g.inProject(Developer, g.withAgent(g.getAgent)))
	public("DELETE "+one, g.inProject(Maintainer, g.withAgent(g.deleteAgent)))
	public("GET "+one+"/tokens", g.inProject(Developer, g.withAgent(g.listTokens)))
	public("POST "+one+"/tokens", g.inProject(Maintainer, g.withAgent(g.postToken)))
	public("DELETE "+one+"/tokens/{token}", g.inProject(Maintainer, g.withAgent(g.revokeToken)))
}

// inProject runs a handler for a project in which the user has a role. mu is held by it.
func (g *GitLab) inProject(least Role, next func(http.ResponseWriter, *http.Request, *User, *Project)) func(http.ResponseWriter, *http.Request, *User) {
	return func(w http.ResponseWriter, r *http.Request, user *User) {
		g.mu.Lock()
		defer g.mu.Unlock()
		p := g.db.findProject(r.PathValue("project"))
		if p == nil {
			fail(w, http.StatusNotFound, "404 Project Not Found")
			return
		}
		role := g.db.role(user, p.Path)
		switch {
		case role == NoAccess && p.Visibility != Public:
			fail(w, http.StatusNotFound, "404 Project Not Found")
		case role < least:
			fail(w, http.StatusForbidden, "403 Forbidden")
		default:
			next(w, r, user, p)
		}
	}
}

func (g *GitLab) withAgent(next func(http.ResponseWriter, *http.Request, *agent)) func(http.ResponseWriter, *http.Request, *User, *Project) {
	return func(w http.ResponseWriter, r *http.Request, _ *User, p *Project) {
		id, err := strconv.ParseInt(r.PathValue("agent"), 10, 64)
		a := g.db.agents[id]
		if err != nil || a == nil || a.project != p {
			fail(w, http.StatusNotFound, "404 Not found")
			return
		}
		next(w, r, a)
	}
}

func (a *agent) body() map[string]any {
	return map[string]any{
		"id": a.ID, "name": a.name, "config_project": identityOf(a.project), "created_at": stamp(a.created), "created_by_user_id": nil,
	}
}

func (g *GitLab) listAgents(w http.ResponseWriter, _ *http.Request, _ *User, p *Project) {
	all := []map[string]any{}
	for _, a := range g.db.sortedAgents() {
		if a.project == p {
			all = append(all, a.body())
		}
	}
	answer(w, http.StatusOK, all)
}

func (g *GitLab) postAgent(w http.ResponseWriter, r *http.Request, _ *User, p *Project) {
	values, err := parameters(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	a, err := g.db.addAgent(0, values.Get("name"), p, g.cfg.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	answer(w, http.StatusCreated, a.body())
}

func (g *GitLab) getAgent(w http.ResponseWriter, _ *http.Request, a *agent) {
	answer(w, http.StatusOK, a.body())
}

func (g *GitLab) deleteAgent(w http.ResponseWriter, _ *http.Request, a *agent) {
	delete(g.db.agents, a.ID)
	w.WriteHeader(http.StatusNoContent)
}

func (t *Token) body() map[string]any {
	body := map[string]any{
		"id": t.ID, "name": t.Name, "description": nil, "agent_id": t.AgentID, "status": "active", "created_at": stamp(t.Created),
		"created_by_user_id": nil, "last_used_at": nil,
	}
	if t.Revoked {
		body["status"] = "revoked"
	}
	if !t.LastUsed.IsZero() {
		body["last_used_at"] = stamp(t.LastUsed)
	}
	return body
}

func (g *GitLab) listTokens(w http.ResponseWriter, _ *http.Request, a *agent) {
	all := []map[string]any{}
	for _, t := range a.tokens {
		if !t.Revoked {
			all = append(all, t.body())
		}
	}
	answer(w, http.StatusOK, all)
}

func (g *GitLab) postToken(w http.ResponseWriter, r *http.Request, a *agent) {
	values, err := parameters(r)
	if err != nil || values.Get("name") == "" {
		fail(w, http.StatusBadRequest, "name is missing")
		return
	}
	t, err := g.db.createToken(a, values.Get("name"), g.cfg.Now())
	if errors.Is(err, ErrTooManyTokens) {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	body := t.body()
	body["token"] = t.Value // the only time that it is shown
	answer(w, http.StatusCreated, body)
}

func (g *GitLab) revokeToken(w http.ResponseWriter, r *http.Request, a *agent) {
	for _, t := range a.tokens {
		if strconv.FormatInt(t.ID, 10) == r.PathValue("token") {
			t.Revoked = true
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	fail(w, http.StatusNotFound, "404 Not found")
}
