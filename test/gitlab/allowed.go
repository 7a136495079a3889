package gitlab

import (
	"net/http"
	"regexp"
	"strings"
)

// grant says that a job may use an agent, under these terms.
type grant struct {
	agent  *agent
	config map[string]any
}

func (g *GitLab) serveAllowedAgents(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := r.Header.Get("Job-Token")
	j := g.db.runningJob(token)
	if j == nil {
		if g.db.pat(token) != nil {
			fail(w, http.StatusNotFound, "404 Not Found") // somebody's, but no job's
			return
		}
		fail(w, http.StatusUnauthorized, "401 Unauthorized")
		return
	}
	agents := []map[string]any{}
	for _, grant := range g.grants(j) {
		agents = append(agents, map[string]any{
			"id": grant.agent.ID, "configuration": grant.config, "config_project": identityOf(grant.agent.project),
		})
	}
	groups := []map[string]any{}
	for _, group := range g.db.groupsOf(j.project.Path) {
		groups = append(groups, map[string]any{"id": group.ID})
	}
	body := map[string]any{
		"allowed_agents": agents,
		"job":            map[string]any{"id": j.ID},
		"pipeline":       map[string]any{"id": j.Pipeline},
		"project":        map[string]any{"id": j.project.ID, "groups": groups},
		"user": map[string]any{
			"id": j.user.ID, "username": j.user.Username,
			"roles_in_project": g.release.roleNames(g.db.role(j.user, j.project.Path)),
		},
	}
	if e := j.environment; e != nil {
		body["environment"] = map[string]any{"id": g.environmentID(j), "name": e.Name, "slug": e.Slug, "tier": e.Tier}
	}
	answer(w, http.StatusOK, body)
}

// environmentID is some number that kas has no use for.
func (g *GitLab) environmentID(j *job) int64 {
	return j.project.ID*1000 + int64(len(g.db.envs[j.project.ID]))
}

// identityOf is a project as the API names it in passing.
func identityOf(p *Project) map[string]any {
	name := p.Path[strings.LastIndexByte(p.Path, '/')+1:]
	return map[string]any{
		"id": p.ID, "description": nil, "name": name, "name_with_namespace": strings.ReplaceAll(p.Path, "/", " / "),
		"path": name, "path_with_namespace": p.Path, "created_at": "2024-01-02T03:04:05.000Z",
	}
}

// grants are the agents that a job may use, in the order in which they were found. The first that is found for an agent counts, even if it
// is then filtered away. mu is held.
func (g *GitLab) grants(j *job) []grant {
	var found []grant
	seen := map[int64]bool{}
	add := func(a *agent, config map[string]any) {
		if !seen[a.ID] {
			seen[a.ID] = true
			found = append(found, grant{a, config})
		}
	}
	agents := g.db.sortedAgents()
	each := func(s scope, target int64) {
		for _, a := range agents {
			for _, row := range a.ciAccess {
				if row.scope == s && row.target == target {
					add(a, row.config)
				}
			}
		}
	}
	each(forProject, j.project.ID)
	for _, a := range agents {
		if a.project == j.project {
			add(a, map[string]any{})
		}
	}
	for _, group := range g.db.groupsOf(j.project.Path) {
		each(forGroup, group.ID)
	}
	if g.settings.InstanceAuthorization {
		each(forInstance, 0)
	}
	allowed := []grant{}
	for _, candidate := range found {
		if g.licensed(candidate.config) && environmentFits(candidate.config, j.environment) && g.refFits(candidate.config, j) {
			allowed = append(allowed, candidate)
		}
	}
	return allowed
}

// licensed drops what the instance has not paid for: being anybody but the agent itself.
func (g *GitLab) licensed(config map[string]any) bool {
	as, _ := config["access_as"].(map[string]any)
	_, itself := as["agent"]
	return len(as) == 0 || itself || g.settings.Tier >= Premium
}

func environmentFits(config map[string]any, e *Environment) bool {
	patterns, _ := config["environments"].([]any)
	if len(patterns) == 0 {
		return true
	}
	if e == nil {
		return false
	}
	for _, p := range patterns {
		pattern, _ := p.(string)
		if pattern == e.Name {
			return true
		}
		if !strings.Contains(pattern, "*") {
			continue
		}
		// As Rails has it: not anchored, and whatever else means something in a regular expression does so here.
		expression, err := regexp.Compile(strings.ReplaceAll(pattern, "*", ".*"))
		if err == nil && expression.MatchString(e.Name) {
			return true
		}
	}
	return false
}

// refFits honours protected_branches_only, which older versions do not know.
func (g *GitLab) refFits(config map[string]any, j *job) bool {
	only, _ := config["protected_branches_only"].(bool)
	return !only || !g.release.atLeast(17, 3) || j.protected()
}
