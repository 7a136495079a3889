package gitlab

import (
	"bytes"
	"io"
	"net/http"
	"net/http/cgi"
	"slices"
	"strings"
)

// serveGit serves git over HTTP, which needs the password of nobody but knows people and jobs by their tokens.
func (g *GitLab) serveGit(w http.ResponseWriter, r *http.Request) {
	path, service, repository := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".git/")
	p, err := g.projectOf(path)
	if !repository || !slices.Contains([]string{"info/refs", "git-upload-pack", "git-receive-pack"}, service) {
		http.NotFound(w, r)
		return
	}
	_, password, _ := r.BasicAuth()
	pushing := service == "git-receive-pack" || r.URL.Query().Get("service") == "git-receive-pack"
	if err != nil || !g.mayGit(p, password, pushing) {
		// Nobody learns which projects there are.
		w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
		http.Error(w, "HTTP Basic: Access denied", http.StatusUnauthorized)
		return
	}
	// A CGI program needs to know how much is coming; git sends large pushes in pieces.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	inner := r.Clone(r.Context())
	inner.URL.Path, inner.URL.RawPath = "/"+service, ""
	inner.Body, inner.ContentLength, inner.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	inner.Header.Del("Authorization")
	before := g.refs(r, p)
	backend := &cgi.Handler{
		Path: g.git.program, Args: []string{"-c", "safe.directory=*", "http-backend"}, Root: "/", Dir: g.Dir,
		Env:    append(g.git.environment(), "GIT_PROJECT_ROOT="+g.repositoryDir(p), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=git"),
		Stderr: io.Discard,
	}
	backend.ServeHTTP(w, inner)
	if service == "git-receive-pack" && g.refs(r, p) != before {
		g.postReceive(p)
	}
}

// refs are all refs of a repository, as text to compare.
func (g *GitLab) refs(r *http.Request, p *Project) string {
	refs, err := g.git.run(r.Context(), g.repositoryDir(p), nil, "for-each-ref")
	if err != nil {
		return ""
	}
	return refs
}

// mayGit says whether a token may fetch from, or push to, a project.
func (g *GitLab) mayGit(p *Project, token string, push bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !push && p.Visibility == Public {
		return true
	}
	if j := g.db.runningJob(token); j != nil {
		return !push && (j.project == p || g.db.role(j.user, p.Path) >= Reporter)
	}
	pat := g.db.pat(token)
	if pat == nil || !pat.usable(g.cfg.Now()) {
		return false
	}
	user := g.db.user(pat.Username)
	least, scopes := Reporter, []string{scopeAPI, "read_repository", "write_repository"}
	if push {
		least, scopes = Developer, []string{scopeAPI, "write_repository"}
	}
	inScope := slices.ContainsFunc(scopes, func(s string) bool { return slices.Contains(pat.Scopes, s) })
	return inScope && !user.Blocked && g.db.role(user, p.Path) >= least
}
