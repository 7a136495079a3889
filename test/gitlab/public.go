package gitlab

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Scopes of personal access tokens that the public API asks for.
const (
	scopeAPI     = "api"
	scopeReadAPI = "read_api"
)

// day is how GitLab writes the end of a token's life.
const day = "2006-01-02"

// publicRoutes are those that kas, glab and jobs need of the public API.
func (g *GitLab) publicRoutes(route func(pattern string, e Endpoint, handle http.HandlerFunc)) {
	public := func(pattern string, handle func(http.ResponseWriter, *http.Request, *User)) {
		route(pattern, PublicAPI, g.userOnly(handle))
	}
	public("GET /metadata", g.serveMetadata)
	public("GET /version", g.serveMetadata)
	public("GET /user", g.serveUser)
	public("GET /personal_access_tokens/self", g.serveOwnToken)
	public("POST /user/personal_access_tokens", g.serveNewToken)
	route("GET /job", PublicAPI, g.serveJob)
	g.registrationRoutes(public)
}

// userOnly lets only requests with a user's personal access token pass.
func (g *GitLab) userOnly(next func(http.ResponseWriter, *http.Request, *User)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		p := g.db.pat(privateToken(r))
		var user *User
		allowed := false
		if p != nil && p.usable(g.cfg.Now()) {
			user = g.db.user(p.Username)
			p.LastUsed = g.cfg.Now()
			self := strings.HasSuffix(r.URL.Path, "/personal_access_tokens/self")
			allowed = self || slices.Contains(p.Scopes, scopeAPI) || r.Method == http.MethodGet && slices.Contains(p.Scopes, scopeReadAPI)
		}
		g.mu.Unlock()
		switch {
		case user == nil || user.Blocked:
			fail(w, http.StatusUnauthorized, "401 Unauthorized")
		case !allowed:
			fail(w, http.StatusForbidden, "insufficient_scope")
		default:
			next(w, r, user)
		}
	}
}

// privateToken is the personal access token of a request, in either header.
func privateToken(r *http.Request) string {
	if token := r.Header.Get("Private-Token"); token != "" {
		return token
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return token
}

func (g *GitLab) serveMetadata(w http.ResponseWriter, _ *http.Request, _ *User) {
	settings := g.current()
	kas := map[string]any{"enabled": settings.Kas.ExternalURL != "", "externalUrl": nil, "version": nil}
	if settings.Kas.ExternalURL != "" {
		kas["externalUrl"], kas["version"] = settings.Kas.ExternalURL, g.release.String()
	}
	if g.release.atLeast(17, 6) {
		kas["externalK8sProxyUrl"] = nil
		if settings.Kas.ExternalURL != "" {
			kas["externalK8sProxyUrl"] = settings.Kas.proxyURL()
		}
	}
	answer(w, http.StatusOK, map[string]any{
		"version": g.release.String(), "revision": "0123456789a", "kas": kas, "enterprise": settings.Tier > Free,
	})
}

func (g *GitLab) serveUser(w http.ResponseWriter, _ *http.Request, user *User) {
	answer(w, http.StatusOK, map[string]any{"id": user.ID, "username": user.Username, "name": user.Username, "state": "active"})
}

func (p *PAT) body() map[string]any {
	body := map[string]any{
		"id": p.ID, "name": p.Name, "revoked": p.Revoked, "active": !p.Revoked, "scopes": p.Scopes, "expires_at": nil, "last_used_at": nil,
	}
	if !p.ExpiresAt.IsZero() {
		body["expires_at"] = p.ExpiresAt.UTC().Format(day)
	}
	if !p.LastUsed.IsZero() {
		body["last_used_at"] = stamp(p.LastUsed)
	}
	return body
}

func (g *GitLab) serveOwnToken(w http.ResponseWriter, r *http.Request, _ *User) {
	g.mu.Lock()
	body := g.db.pat(privateToken(r)).body()
	g.mu.Unlock()
	answer(w, http.StatusOK, body)
}

// serveNewToken makes a token for agents only; others are not made by way of the API.
func (g *GitLab) serveNewToken(w http.ResponseWriter, r *http.Request, user *User) {
	values, err := parameters(r)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	name, scopes := values.Get("name"), append(values["scopes"], values["scopes[]"]...)
	if name == "" || len(scopes) != 1 || scopes[0] != scopeProxy {
		fail(w, http.StatusBadRequest, "name is missing, or scopes does not have a valid value")
		return
	}
	p := PAT{Username: user.Username, Name: name, Scopes: scopes}
	if text := values.Get("expires_at"); text != "" {
		if p.ExpiresAt, err = time.Parse(day, text); err != nil {
			fail(w, http.StatusBadRequest, "expires_at is invalid")
			return
		}
	}
	g.mu.Lock()
	made := g.db.addPAT(p)
	body := made.body()
	body["token"] = made.Value
	g.mu.Unlock()
	answer(w, http.StatusCreated, body)
}

// parameters are those of a request, from JSON or from a form.
func parameters(r *http.Request) (url.Values, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		err := r.ParseForm()
		return r.Form, err
	}
	body, err := bodyOf(r)
	if err != nil {
		return nil, err
	}
	values := url.Values{}
	for key, value := range body {
		switch v := value.(type) {
		case string:
			values.Set(key, v)
		case []any:
			for _, e := range v {
				if s, ok := e.(string); ok {
					values.Add(key, s)
				}
			}
		}
	}
	return values, nil
}

// serveJob tells a job who it is.
func (g *GitLab) serveJob(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.db.runningJob(r.Header.Get("Job-Token"))
	if j == nil {
		fail(w, http.StatusUnauthorized, "401 Unauthorized")
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"id": j.ID, "name": j.Name, "status": "running", "ref": j.Ref, "pipeline": map[string]any{"id": j.Pipeline, "project_id": j.project.ID},
		"user": map[string]any{"id": j.user.ID, "username": j.user.Username}, "web_url": g.URL + "/" + j.project.Path + "/-/jobs/" + strconv.FormatInt(j.ID, 10),
	})
}
