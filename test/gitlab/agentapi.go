package gitlab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
)

// storageName is that of the only Gitaly storage.
const storageName = "default"

// GitalyInfo is how to reach Gitaly, as kas is told.
type GitalyInfo struct {
	Address  string            `json:"address"`
	Token    string            `json:"token"`
	Features map[string]string `json:"features"`
}

// GitalyRepository names a repository, as kas is told.
type GitalyRepository struct {
	StorageName                   string   `json:"storage_name"`
	RelativePath                  string   `json:"relative_path"`
	GitObjectDirectory            string   `json:"git_object_directory"`
	GitAlternateObjectDirectories []string `json:"git_alternate_object_directories"`
	GlRepository                  string   `json:"gl_repository"`
	GlProjectPath                 string   `json:"gl_project_path"`
}

// gitalyInfo is how to reach Gitaly now.
func (g *GitLab) gitalyInfo() GitalyInfo {
	address := g.Gitaly.UnixAddress()
	if g.cfg.GitalyTCP {
		address = g.Gitaly.TCPAddress()
	}
	features := g.current().Features
	if features == nil {
		features = map[string]string{}
	}
	return GitalyInfo{Address: address, Token: g.cfg.GitalyToken, Features: features}
}

func (p *Project) gitalyRepository() GitalyRepository {
	return GitalyRepository{
		StorageName: storageName, RelativePath: p.relativePath(), GitAlternateObjectDirectories: []string{},
		GlRepository: fmt.Sprintf("project-%d", p.ID), GlProjectPath: p.Path,
	}
}

// relativePath is where the repository is in its storage: hashed, as GitLab has it.
func (p *Project) relativePath() string {
	sum := sha256.Sum256([]byte(strconv.FormatInt(p.ID, 10)))
	hash := hex.EncodeToString(sum[:])
	return "@hashed/" + hash[:2] + "/" + hash[2:4] + "/" + hash + ".git"
}

func (g *GitLab) serveAgentInfo(w http.ResponseWriter, _ *http.Request, a *agent) {
	answer(w, http.StatusOK, map[string]any{
		"project_id": a.project.ID, "agent_id": a.ID, "agent_name": a.name,
		"gitaly_info": g.gitalyInfo(), "gitaly_repository": a.project.gitalyRepository(), "default_branch": a.project.DefaultBranch,
	})
}

func (g *GitLab) serveProjectInfo(w http.ResponseWriter, r *http.Request, a *agent) {
	p := g.readableProject(r, a)
	if p == nil {
		fail(w, http.StatusNotFound, "404 Project Not Found")
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"project_id": p.ID, "gitaly_info": g.gitalyInfo(), "gitaly_repository": p.gitalyRepository(), "default_branch": p.DefaultBranch,
	})
}

func (g *GitLab) serveVerifyProjectAccess(w http.ResponseWriter, r *http.Request, a *agent) {
	if g.readableProject(r, a) == nil {
		fail(w, http.StatusNotFound, "404 Project Not Found")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// readableProject is the project that a request names by id or full path, if the agent may read its code: its own, or a public one.
func (g *GitLab) readableProject(r *http.Request, a *agent) *Project {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.db.findProject(r.URL.Query().Get("id"))
	if p == nil || p.Visibility != Public && p != a.project {
		return nil
	}
	return p
}

// findProject finds a project by id or full path.
func (d *database) findProject(ref string) *Project {
	if id, err := strconv.ParseInt(ref, 10, 64); err == nil {
		return d.projects[id]
	}
	return d.project(ref)
}
