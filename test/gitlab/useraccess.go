package gitlab

import (
	"net/http"
	"slices"
)

// Kinds of credentials of users.
const (
	accessCookie = "session_cookie"
	accessPAT    = "personal_access_token"
	scopeProxy   = "k8s_proxy"
)

// refusal is an error answer.
type refusal struct {
	status  int
	message string
}

// claim is what kas asks about a user.
type claim struct {
	agent           int64
	kind, key, csrf string
}

func (g *GitLab) serveAuthorizeProxyUser(w http.ResponseWriter, r *http.Request) {
	c, refused := readClaim(r)
	if refused != nil {
		fail(w, refused.status, refused.message)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	body, refused := g.authorizeUser(c)
	if refused != nil {
		fail(w, refused.status, refused.message)
		return
	}
	answer(w, http.StatusOK, body)
}

func readClaim(r *http.Request) (claim, *refusal) {
	body, err := bodyOf(r)
	if err != nil {
		return claim{}, &refusal{http.StatusBadRequest, err.Error()}
	}
	c := claim{}
	var valid bool
	if c.agent, valid = integer(body["agent_id"]); !valid {
		return claim{}, &refusal{http.StatusBadRequest, "agent_id is missing or invalid"}
	}
	c.kind, _ = body["access_type"].(string)
	c.key, _ = body["access_key"].(string)
	c.csrf, _ = body["csrf_token"].(string)
	switch {
	case c.kind != accessCookie && c.kind != accessPAT:
		return claim{}, &refusal{http.StatusBadRequest, "access_type does not have a valid value"}
	case c.key == "":
		return claim{}, &refusal{http.StatusBadRequest, "access_key is missing"}
	case c.kind == accessCookie && c.csrf == "":
		return claim{}, &refusal{http.StatusBadRequest, "csrf_token is missing"}
	}
	return c, nil
}

// authorizeUser decides what a user may do with an agent. mu is held.
func (g *GitLab) authorizeUser(c claim) (map[string]any, *refusal) {
	if g.settings.NoUserAccess {
		return nil, &refusal{http.StatusUnauthorized, "401 Unauthorized"}
	}
	a := g.db.agents[c.agent]
	if a == nil {
		return nil, &refusal{http.StatusNotFound, "404 Agent Not Found"}
	}
	user, refused := g.identify(c)
	if refused != nil {
		return nil, refused
	}
	access, refused := g.accessOf(user, a)
	if refused != nil {
		return nil, refused
	}
	return map[string]any{
		"agent":     map[string]any{"id": a.ID, "config_project": map[string]any{"id": a.project.ID}},
		"user":      map[string]any{"id": user.ID, "username": user.Username},
		"access_as": access,
	}, nil
}

// identify finds the person behind a credential.
func (g *GitLab) identify(c claim) (*User, *refusal) {
	unauthorized := &refusal{http.StatusUnauthorized, "401 Unauthorized"}
	var user *User
	if c.kind == accessCookie {
		public, err := g.openCookie(c.key)
		if err != nil {
			return nil, &refusal{http.StatusBadRequest, err.Error()}
		}
		s := g.db.sessions[public]
		if s == nil {
			return nil, unauthorized
		}
		if !s.accepts(c.csrf) {
			return nil, &refusal{http.StatusUnauthorized, "CSRF token does not match"}
		}
		user = s.user
	} else {
		p := g.db.pat(c.key)
		if p == nil || !p.usable(g.cfg.Now()) {
			return nil, unauthorized
		}
		if !slices.Contains(p.Scopes, scopeProxy) {
			return nil, &refusal{http.StatusForbidden, "403 Forbidden - insufficient_scope"}
		}
		p.LastUsed = g.cfg.Now()
		user = g.db.user(p.Username)
	}
	if user.Blocked {
		return nil, unauthorized
	}
	return user, nil
}

// accessOf decides as whom a user acts in the agent's cluster.
func (g *GitLab) accessOf(user *User, a *agent) (map[string]any, *refusal) {
	forbidden := func(why string) (map[string]any, *refusal) {
		return nil, &refusal{http.StatusForbidden, "403 Forbidden - " + why}
	}
	section, listed := a.configuration["user_access"].(map[string]any)
	if !listed {
		return forbidden("user_access is not configured")
	}
	as, _ := section["access_as"].(map[string]any)
	if len(as) != 1 {
		return forbidden("access_as must have one key")
	}
	projects, groups := g.developedIn(user, a)
	if len(projects)+len(groups) == 0 {
		return forbidden("not a member")
	}
	if _, itself := as["agent"]; itself {
		return map[string]any{"agent": map[string]any{}}, nil
	}
	if _, personal := as["user"]; !personal {
		return forbidden("unknown access_as")
	}
	if g.settings.Tier < Premium {
		return forbidden("not licensed")
	}
	return map[string]any{"user": map[string]any{"projects": projects, "groups": groups}}, nil
}

// developedIn are the projects and groups listed for an agent in which the user is at least a Developer, with the names of the roles.
func (g *GitLab) developedIn(user *User, a *agent) (projects, groups []map[string]any) {
	projects, groups = []map[string]any{}, []map[string]any{}
	for _, row := range a.userAccess {
		var path string
		if row.scope == forProject {
			path = g.db.projects[row.target].Path
		} else {
			path = g.db.groups[row.target].Path
		}
		level := g.db.role(user, path)
		if level < Developer {
			continue
		}
		item := map[string]any{"id": row.target, "roles": g.release.roleNames(level)}
		if row.scope == forProject {
			projects = append(projects, item)
		} else {
			groups = append(groups, item)
		}
	}
	return projects, groups
}
