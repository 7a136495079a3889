package gitlab

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const userPath = "/api/v4/internal/kubernetes/authorize_proxy_user"

func (g *GitLab) authorize(t *testing.T, body map[string]any) *reply {
	t.Helper()
	return g.ask(t, "POST", userPath, g.kasHeader(t, nil), body)
}

func patClaim(token string) map[string]any {
	return map[string]any{"agent_id": "7", "access_type": "personal_access_token", "access_key": token}
}

const (
	userConfig  = `{"user_access":{"access_as":{"user":{}},"projects":[{"id":"acme/infra"},{"id":"acme/team/shop"}],"groups":[{"id":"acme/team"}]}}`
	agentConfig = `{"user_access":{"access_as":{"agent":{}},"projects":[{"id":"acme/team/shop"}]}}`
)

func TestUserAccess_PAT(t *testing.T) {
	g := start(t, Config{Settings: Settings{Tier: Premium}})
	g.configure(t, edgeID, userConfig)
	pat, err := g.AddPAT(PAT{Username: "ci-user", Scopes: []string{"k8s_proxy"}})
	check(t, err)
	check(t, g.AddMember("ci-user", "acme/team", Maintainer))
	r := g.authorize(t, patClaim(pat.Value))
	wantStatus(t, r, http.StatusOK)
	developer := []any{"guest", "planner", "reporter", "developer"}
	maintainer := append(append([]any{}, developer...), "maintainer")
	want := map[string]any{
		"agent": map[string]any{"id": 7.0, "config_project": map[string]any{"id": 31.0}},
		"user":  map[string]any{"id": 3.0, "username": "ci-user"},
		"access_as": map[string]any{"user": map[string]any{
			"projects": []any{map[string]any{"id": 31.0, "roles": developer}, map[string]any{"id": 42.0, "roles": maintainer}},
			"groups":   []any{map[string]any{"id": 6.0, "roles": maintainer}},
		}},
	}
	if diff := cmp.Diff(want, r.json(t)); diff != "" {
		t.Error(diff)
	}
	if g.PATs("ci-user")[0].LastUsed.IsZero() {
		t.Error("the use of the token is not noted")
	}
}

func TestUserAccess_Cookie(t *testing.T) {
	g := start(t, Config{Settings: Settings{Tier: Premium}})
	g.configure(t, edgeID, agentConfig)
	session, err := g.SignIn("ci-user")
	check(t, err)
	other, err := g.SignIn("ci-user")
	check(t, err)
	value, err := url.QueryUnescape(session.Cookie)
	check(t, err)
	claim := func(key, csrf string) map[string]any {
		body := map[string]any{"agent_id": 7, "access_type": "session_cookie", "access_key": key, "csrf_token": csrf}
		if csrf == "" {
			delete(body, "csrf_token")
		}
		return body
	}
	if first, second := session.CSRFToken(), session.CSRFToken(); first == second {
		t.Error("a token is there twice")
	}
	r := g.authorize(t, claim(value, session.CSRFToken()))
	wantStatus(t, r, http.StatusOK)
	if diff := cmp.Diff(map[string]any{"agent": map[string]any{}}, r.json(t)["access_as"]); diff != "" {
		t.Error(diff)
	}
	wantStatus(t, g.authorize(t, claim(value, "")), http.StatusBadRequest)
	wantStatus(t, g.authorize(t, claim(value, other.CSRFToken())), http.StatusUnauthorized)
	wantStatus(t, g.authorize(t, claim(value, "garbage")), http.StatusUnauthorized)
	wantStatus(t, g.authorize(t, claim(session.Cookie, session.CSRFToken())), http.StatusBadRequest) // not unescaped
	wantStatus(t, g.authorize(t, claim("garbage", session.CSRFToken())), http.StatusBadRequest)
	wantStatus(t, g.authorize(t, claim(value[:len(value)-6]+"AAAA==", session.CSRFToken())), http.StatusBadRequest)
	session.SignOut()
	wantStatus(t, g.authorize(t, claim(value, session.CSRFToken())), http.StatusUnauthorized)
}

func TestUserAccess_Refusals(t *testing.T) {
	now := time.Now()
	scopes := []string{"k8s_proxy"}
	for name, test := range map[string]struct {
		prepare func(g *GitLab, pat *PAT)
		config  string
		tier    Tier
		change  map[string]any
		want    int
	}{
		"unknown agent":             {change: map[string]any{"agent_id": "99"}, want: 404},
		"agent id is no number":     {change: map[string]any{"agent_id": "x"}, want: 400},
		"no agent id":               {change: map[string]any{"agent_id": nil}, want: 400},
		"unknown kind":              {change: map[string]any{"access_type": "password"}, want: 400},
		"no key":                    {change: map[string]any{"access_key": ""}, want: 400},
		"unknown token":             {change: map[string]any{"access_key": "glpat-x"}, want: 401},
		"scope":                     {prepare: func(_ *GitLab, p *PAT) { p.Scopes = []string{"api"} }, want: 403},
		"expired":                   {prepare: func(_ *GitLab, p *PAT) { p.ExpiresAt = now.Add(-time.Hour) }, want: 401},
		"revoked":                   {prepare: func(_ *GitLab, p *PAT) { p.Revoked = true }, want: 401},
		"blocked":                   {prepare: func(g *GitLab, _ *PAT) { check(t, g.BlockUser("ci-user")) }, want: 401},
		"switched off":              {prepare: func(g *GitLab, _ *PAT) { g.Change(func(s *Settings) { s.NoUserAccess = true }) }, want: 401},
		"no user_access":            {config: `{}`, want: 403},
		"no access_as":              {config: `{"user_access":{"projects":[{"id":"acme/team/shop"}]}}`, want: 403},
		"two access_as":             {config: `{"user_access":{"access_as":{"user":{},"agent":{}},"projects":[{"id":"acme/team/shop"}]}}`, want: 403},
		"unknown access_as":         {config: `{"user_access":{"access_as":{"x":{}},"projects":[{"id":"acme/team/shop"}]}}`, want: 403},
		"not licensed":              {config: userConfig, tier: Free, want: 403},
		"agent in the free tier":    {tier: Free, want: 200},
		"no member":                 {prepare: func(_ *GitLab, p *PAT) { p.Username = "ci-intern" }, want: 403},
		"reporter":                  {prepare: func(g *GitLab, _ *PAT) { check(t, g.AddMember("ci-user", "acme", Reporter)) }, want: 403},
		"member of another project": {config: `{"user_access":{"access_as":{"agent":{}},"projects":[{"id":"other/docs"}]}}`, want: 403},
		"by group":                  {config: `{"user_access":{"access_as":{"agent":{}},"groups":[{"id":"acme/team"}]}}`, want: 200},
	} {
		t.Run(name, func(t *testing.T) {
			if test.tier == 0 && name != "not licensed" && name != "agent in the free tier" {
				test.tier = Premium
			}
			g := start(t, Config{Settings: Settings{Tier: test.tier}})
			if test.config == "" {
				test.config = agentConfig
			}
			g.configure(t, edgeID, test.config)
			pat := PAT{Username: "ci-user", Scopes: scopes}
			if test.prepare != nil {
				test.prepare(g, &pat)
			}
			pat, err := g.AddPAT(pat)
			check(t, err)
			body := patClaim(pat.Value)
			for key, value := range test.change {
				body[key] = value
			}
			r := g.authorize(t, body)
			wantStatus(t, r, test.want)
			if _, said := r.json(t)["message"]; said != (test.want != 200) {
				t.Errorf("%s", r.body)
			}
		})
	}
}
