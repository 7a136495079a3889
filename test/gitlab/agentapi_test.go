package gitlab

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
)

const agentInfoPath = "/api/v4/internal/kubernetes/agent_info"

func TestAgentInfo(t *testing.T) {
	g := start(t, Config{PathPrefix: "/sub", Settings: Settings{Features: map[string]string{"gitaly-feature-a": "true"}}})
	token, err := g.CreateToken(edgeID)
	check(t, err)
	if got := g.AgentStatus(edgeID); got != "unused" {
		t.Errorf("status before: %s", got)
	}
	for _, path := range []string{agentInfoPath, "/api/v4/internal/agents/agentk/agent_info"} {
		r := g.ask(t, "GET", path, g.agentHeader(t, token.Value, HeaderAgent), nil)
		wantStatus(t, r, http.StatusOK)
		if r.header.Get("Content-Type") != "application/json" {
			t.Errorf("content type %q", r.header.Get("Content-Type"))
		}
		var got map[string]any
		check(t, json.Unmarshal(r.body, &got))
		hash := "eb1e33e8a81b697b75855af6bfcdbcbf7cbbde9f94962ceaec1ed8af21f5a50f" // SHA-256 of "31"
		want := map[string]any{
			"project_id": 31.0, "agent_id": 7.0, "agent_name": "edge", "default_branch": "main",
			"gitaly_info": map[string]any{"address": g.Gitaly.UnixAddress(), "token": g.cfg.GitalyToken, "features": map[string]any{"gitaly-feature-a": "true"}},
			"gitaly_repository": map[string]any{
				"storage_name": "default", "relative_path": "@hashed/" + hash[:2] + "/" + hash[2:4] + "/" + hash + ".git",
				"git_object_directory": "", "git_alternate_object_directories": []any{}, "gl_repository": "project-31", "gl_project_path": "acme/infra",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if got := g.AgentStatus(edgeID); got != "active" {
		t.Errorf("status after: %s", got)
	}
	if len(g.Requests(AgentInfo)) != 2 || g.Requests(AgentInfo)[1].Status != http.StatusOK {
		t.Errorf("record: %v", g.Requests(AgentInfo))
	}
	if r := g.ask(t, "GET", "/../nowhere", nil, nil); r.status != http.StatusNotFound {
		t.Errorf("outside of the prefix: %d", r.status)
	}
}

func TestAgentInfo_TokenLife(t *testing.T) {
	now := time.Now()
	g := start(t, Config{Now: func() time.Time { return now }})
	first, err := g.CreateToken(edgeID)
	check(t, err)
	second, err := g.CreateToken(edgeID)
	check(t, err)
	if _, err := g.CreateToken(edgeID); err == nil {
		t.Error("a third active token")
	}
	ask := func(token string) int {
		return g.ask(t, "GET", agentInfoPath, g.agentHeader(t, token, HeaderAgentk), nil).status
	}
	if ask(first.Value) != 200 || ask(second.Value) != 200 {
		t.Error("one of two tokens is refused")
	}
	check(t, g.RevokeToken(first.ID))
	if ask(first.Value) != 401 || ask(second.Value) != 200 || ask("glagent-unknown") != 401 {
		t.Error("after the revocation")
	}
	if _, err := g.CreateToken(edgeID); err != nil {
		t.Error(err)
	}
	now = now.Add(9 * time.Minute)
	if got := g.AgentStatus(edgeID); got != "inactive" {
		t.Errorf("status 9 min later: %s", got)
	}
	now = time.Now()
	check(t, g.DeleteAgent(edgeID))
	if got := ask(second.Value); got != 401 {
		t.Errorf("deleted agent: %d", got)
	}
}

func TestTokenHeaders(t *testing.T) {
	for version, accepted := range map[string][]string{
		"16.6": {HeaderAuthorization}, "17.2": {HeaderAgentk, HeaderAuthorization}, "18.3": {HeaderAgentk, HeaderAgent},
	} {
		g := start(t, Config{Version: version})
		token, err := g.CreateToken(edgeID)
		check(t, err)
		for _, header := range []string{HeaderAuthorization, HeaderAgentk, HeaderAgent} {
			want := http.StatusUnauthorized
			for _, a := range accepted {
				if a == header {
					want = http.StatusOK
				}
			}
			t.Run(version+" "+header, func(t *testing.T) {
				wantStatus(t, g.ask(t, "GET", agentInfoPath, g.agentHeader(t, token.Value, header), nil), want)
			})
		}
		g.Change(func(s *Settings) { s.TokenHeaders = []string{HeaderAgent} })
		wantStatus(t, g.ask(t, "GET", agentInfoPath, g.agentHeader(t, token.Value, HeaderAgentk), nil), http.StatusUnauthorized)
	}
}

func TestKasToken(t *testing.T) {
	g := start(t, Config{})
	token, err := g.CreateToken(edgeID)
	check(t, err)
	now := time.Now()
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"iss": "gitlab-kas", "aud": "gitlab", "exp": now.Add(time.Minute).Unix()}).
		SignedString(jwt.UnsafeAllowNoneSignatureType)
	check(t, err)
	other, err := jwt.NewWithClaims(jwt.SigningMethodHS384, jwt.MapClaims{"iss": "gitlab-kas", "aud": "gitlab", "exp": now.Add(time.Minute).Unix()}).SignedString(g.Secret)
	check(t, err)
	foreign, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": "gitlab-kas", "aud": "gitlab", "exp": now.Add(time.Minute).Unix()}).SignedString(make([]byte, 32))
	check(t, err)
	for name, header := range map[string]http.Header{
		"none":            {},
		"garbage":         {HeaderKas: {"garbage"}},
		"bearer":          {HeaderKas: {"Bearer " + g.kasHeader(t, nil).Get(HeaderKas)}},
		"unsigned":        {HeaderKas: {unsigned}},
		"other algorithm": {HeaderKas: {other}},
		"other secret":    {HeaderKas: {foreign}},
		"other issuer":    g.kasHeader(t, func(c jwt.MapClaims) { c["iss"] = "gitlab" }),
		"other audience":  g.kasHeader(t, func(c jwt.MapClaims) { c["aud"] = "gitlab-kas" }),
		"expired":         g.kasHeader(t, func(c jwt.MapClaims) { c["exp"] = now.Add(-time.Second).Unix() }),
		"not yet":         g.kasHeader(t, func(c jwt.MapClaims) { c["nbf"] = now.Add(time.Minute).Unix() }),
		"for ever":        g.kasHeader(t, func(c jwt.MapClaims) { delete(c, "exp") }),
	} {
		t.Run(name, func(t *testing.T) {
			header.Set(HeaderAgent, token.Value)
			for _, path := range []string{"GET " + agentInfoPath, "POST /api/v4/internal/kubernetes/usage_metrics", "GET " + modulesRoot + "x/y"} {
				method, path, _ := strings.Cut(path, " ")
				r := g.ask(t, method, path, header, nil)
				wantStatus(t, r, http.StatusUnauthorized)
				if got := r.json(t)["message"]; got != "KAS JWT authentication invalid" {
					t.Errorf("message %v", got)
				}
			}
		})
	}
}

func TestProjectAccess(t *testing.T) {
	g := start(t, Config{Version: "17.11"})
	token, err := g.CreateToken(edgeID)
	check(t, err)
	header := g.agentHeader(t, token.Value, HeaderAgentk)
	for id, readable := range map[string]bool{
		"31": true, "acme%2Finfra": true, "ACME%2Finfra": true, "other%2Fdocs": true, "43": true, "acme%2Fteam%2Fshop": false, "42": false, "999": false, "": false,
	} {
		want, wantNothing := http.StatusNotFound, http.StatusNotFound
		if readable {
			want, wantNothing = http.StatusOK, http.StatusNoContent
		}
		r := g.ask(t, "GET", "/api/v4/internal/kubernetes/project_info?id="+id, header, nil)
		wantStatus(t, r, want)
		if readable {
			if body := r.json(t); body["default_branch"] != "main" || body["gitaly_repository"] == nil || body["gitaly_info"] == nil {
				t.Errorf("%s: %v", id, body)
			}
		}
		wantStatus(t, g.ask(t, "GET", "/api/v4/internal/kubernetes/verify_project_access?id="+id, header, nil), wantNothing)
	}
}

func TestEndpointsByVersion(t *testing.T) {
	for _, test := range []struct {
		version, method, path string
		there                 bool
	}{
		{"15.0", "POST", "authorize_proxy_user", false},
		{"16.0", "POST", "authorize_proxy_user", true},
		{"15.0", "GET", "verify_project_access", false},
		{"16.0", "GET", "verify_project_access", true},
		{"17.1", "POST", "agent_events", false},
		{"17.2", "POST", "agent_events", true},
		{"17.11", "GET", "project_info", true},
		{"18.0", "GET", "project_info", false},
	} {
		t.Run(fmt.Sprint(test.version, " ", test.path), func(t *testing.T) {
			g := start(t, Config{Version: test.version})
			r := g.ask(t, test.method, "/api/v4/internal/kubernetes/"+test.path, http.Header{}, nil)
			if there := r.status == http.StatusUnauthorized; there != test.there {
				t.Errorf("status %d", r.status)
			}
		})
	}
	if _, err := Start(t.Context(), Config{Version: "newest"}); err == nil {
		t.Error("no error for a version that is none")
	}
}
