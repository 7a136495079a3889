package gitlab

import (
	"maps"
	"net/http"
	"strings"
)

// scope says what an authorization is for.
type scope int

const (
	forProject scope = iota
	forGroup
	forInstance
)

// authorization is a row that an agent's configuration led to: who may use the agent, and how.
type authorization struct {
	scope  scope
	target int64          // of project or group
	config map[string]any // the entry without its id
}

// Ignored is an entry of an agent's configuration that led to nothing.
type Ignored struct {
	// Section is ci_access or user_access, List projects, groups or instance.
	Section, List string
	ID            string
	// Why is "unknown", "other namespace", "above the cap" or "not enabled".
	Why string
}

// Configuration is what kas posted last for an agent, how often it posted, and what of it had no effect. A nil map: it never did.
func (g *GitLab) Configuration(agentID int64) (file map[string]any, posts int, ignored []Ignored) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.db.agents[agentID]
	if a == nil {
		return nil, 0, nil
	}
	return a.configuration, a.posts, append([]Ignored(nil), a.ignored...)
}

func (g *GitLab) serveAgentConfiguration(w http.ResponseWriter, r *http.Request) {
	body, err := bodyOf(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	id, valid := integer(body["agent_id"])
	file, object := body["agent_config"].(map[string]any)
	if !valid || !object {
		fail(w, http.StatusBadRequest, "agent_id is missing or invalid, or agent_config is")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.db.agents[id]
	if a == nil {
		fail(w, http.StatusNotFound, "404 Not found")
		return
	}
	a.configuration = file
	a.posts++
	g.deriveAuthorizations(a)
	w.WriteHeader(http.StatusNoContent)
}

// deriveAuthorizations replaces an agent's rows by those of its configuration. mu is held.
func (g *GitLab) deriveAuthorizations(a *agent) {
	a.ciAccess, a.userAccess, a.ignored = nil, nil, nil
	ci, _ := a.configuration["ci_access"].(map[string]any)
	a.ciAccess = g.rows(a, "ci_access", ci, nil)
	if instance, listed := ci["instance"].(map[string]any); listed {
		if g.settings.InstanceAuthorization && g.release.atLeast(17, 11) {
			a.ciAccess = append(a.ciAccess, authorization{scope: forInstance, config: instance})
		} else {
			a.ignored = append(a.ignored, Ignored{Section: "ci_access", List: "instance", Why: "not enabled"})
		}
	}
	if user, listed := a.configuration["user_access"].(map[string]any); listed {
		// Only access_as is kept, and it is the same for all.
		a.userAccess = g.rows(a, "user_access", user, map[string]any{"access_as": user["access_as"]})
	}
}

// rows are those that the lists of a section lead to. Their configuration is that of the entry unless one is given.
func (g *GitLab) rows(a *agent, section string, content, config map[string]any) []authorization {
	var rows []authorization
	for _, list := range []struct {
		name  string
		scope scope
	}{{"projects", forProject}, {"groups", forGroup}} {
		entries, _ := content[list.name].([]any)
		for i, e := range entries {
			entry, _ := e.(map[string]any)
			path, _ := entry["id"].(string)
			target, why := g.target(a, list.scope, path, section)
			if i >= g.release.entryCap() {
				why = "above the cap"
			}
			if why != "" {
				a.ignored = append(a.ignored, Ignored{Section: section, List: list.name, ID: path, Why: why})
				continue
			}
			row := authorization{scope: list.scope, target: target, config: config}
			if config == nil {
				row.config = maps.Clone(entry)
				delete(row.config, "id")
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// target finds what an entry names, and says why it has no effect if it has none.
func (g *GitLab) target(a *agent, s scope, path, section string) (id int64, why string) {
	if s == forProject {
		if p := g.db.project(path); p != nil {
			id, path = p.ID, p.Path
		}
	} else if group := g.db.group(path); group != nil {
		id, path = group.ID, group.Path
	}
	if id == 0 {
		return 0, "unknown"
	}
	anywhere := g.settings.InstanceAuthorization && (section == "ci_access" || g.release.atLeast(18, 4))
	if !anywhere && !strings.EqualFold(rootOf(path), rootOf(a.project.Path)) {
		return 0, "other namespace"
	}
	return id, ""
}
