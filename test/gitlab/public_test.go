package gitlab

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMetadata(t *testing.T) {
	for version, proxy := range map[string]bool{"16.6": false, "17.6": true} {
		g := start(t, Config{Version: version, Settings: Settings{Tier: Premium}})
		pat, err := g.AddPAT(PAT{Username: "ci-user", Scopes: []string{"read_api"}})
		check(t, err)
		body := g.ask(t, "GET", "/api/v4/metadata", http.Header{"Private-Token": {pat.Value}}, nil).json(t)
		kas := body["kas"].(map[string]any)
		if body["version"] != version+".0-ee" || kas["enabled"] != true || kas["externalUrl"] != "wss://kas.corp.test/-/kubernetes-agent/" {
			t.Errorf("%v", body)
		}
		if got, there := kas["externalK8sProxyUrl"]; there != proxy || proxy && got != "https://kas.corp.test/-/kubernetes-agent/k8s-proxy" {
			t.Errorf("%s: %v", version, kas)
		}
		wantStatus(t, g.ask(t, "GET", "/api/v4/metadata", nil, nil), http.StatusUnauthorized)
	}
}

// TestGlab goes the way of "glab cluster agent update-kubeconfig" and "get-token".
func TestGlab(t *testing.T) {
	g := start(t, Config{})
	pat, err := g.AddPAT(PAT{Username: "ci-user", Scopes: []string{"api"}})
	check(t, err)
	header := http.Header{"Authorization": {"Bearer " + pat.Value}}
	agent := g.ask(t, "GET", "/api/v4/projects/acme%2Finfra/cluster_agents/7", header, nil).json(t)
	if agent["name"] != "edge" || agent["config_project"].(map[string]any)["path_with_namespace"] != "acme/infra" {
		t.Errorf("%v", agent)
	}
	if user := g.ask(t, "GET", "/api/v4/user", header, nil).json(t); user["username"] != "ci-user" {
		t.Errorf("%v", user)
	}
	name := "glab-k8s-proxy-" + strings.Repeat("0", 32)
	r := g.ask(t, "POST", "/api/v4/user/personal_access_tokens", header, map[string]any{"name": name, "scopes": []string{"k8s_proxy"}, "expires_at": "2030-01-02"})
	wantStatus(t, r, http.StatusCreated)
	made := r.json(t)
	own := http.Header{"Private-Token": {made["token"].(string)}}
	self := g.ask(t, "GET", "/api/v4/personal_access_tokens/self", own, nil)
	wantStatus(t, self, http.StatusOK)
	if self.json(t)["expires_at"] != "2030-01-02" || !cmp.Equal(self.json(t)["scopes"], []any{"k8s_proxy"}) {
		t.Errorf("%s", self.body)
	}
	wantStatus(t, g.ask(t, "GET", "/api/v4/user", own, nil), http.StatusForbidden)
	wantStatus(t, g.ask(t, "POST", "/api/v4/user/personal_access_tokens", header, map[string]any{"name": name, "scopes": []string{"api"}}), http.StatusBadRequest)
	wantStatus(t, g.ask(t, "POST", "/api/v4/user/personal_access_tokens", header, map[string]any{"name": name, "scopes": []string{"k8s_proxy"}, "expires_at": "soon"}), http.StatusBadRequest)
	check(t, g.RevokePAT(g.PATs("ci-user")[1].ID))
	wantStatus(t, g.ask(t, "GET", "/api/v4/personal_access_tokens/self", own, nil), http.StatusUnauthorized)
}

func TestRegistration(t *testing.T) {
	g := start(t, Config{Now: time.Now})
	pat, err := g.AddPAT(PAT{Username: "ci-user", Scopes: []string{"api"}})
	check(t, err)
	header := http.Header{"Private-Token": {pat.Value}}
	const root = "/api/v4/projects/31/cluster_agents"
	post := func(path string, body map[string]any) *reply { return g.ask(t, "POST", path, header, body) }
	wantStatus(t, post(root, map[string]any{"name": "fresh"}), http.StatusForbidden) // a developer
	check(t, g.AddMember("ci-user", "acme/infra", Maintainer))
	r := post(root, map[string]any{"name": "fresh"})
	wantStatus(t, r, http.StatusCreated)
	for _, name := range []string{"fresh", "Fresh", "-x", "", strings.Repeat("a", 64)} {
		wantStatus(t, post(root, map[string]any{"name": name}), http.StatusBadRequest)
	}
	one := root + "/" + number(r.json(t)["id"])
	wantStatus(t, post(one+"/tokens", map[string]any{}), http.StatusBadRequest)
	first := post(one+"/tokens", map[string]any{"name": "a"})
	wantStatus(t, first, http.StatusCreated)
	wantStatus(t, post(one+"/tokens", map[string]any{"name": "b"}), http.StatusCreated)
	wantStatus(t, post(one+"/tokens", map[string]any{"name": "c"}), http.StatusBadRequest)
	value := first.json(t)["token"].(string)
	wantStatus(t, g.ask(t, "GET", agentInfoPath, g.agentHeader(t, value, HeaderAgent), nil), http.StatusOK)
	if listed := g.ask(t, "GET", one+"/tokens", header, nil); strings.Contains(string(listed.body), value) || strings.Count(string(listed.body), `"status":"active"`) != 2 {
		t.Errorf("%s", listed.body)
	}
	wantStatus(t, g.ask(t, "DELETE", one+"/tokens/"+number(first.json(t)["id"]), header, nil), http.StatusNoContent)
	wantStatus(t, g.ask(t, "GET", agentInfoPath, g.agentHeader(t, value, HeaderAgent), nil), http.StatusUnauthorized)
	wantStatus(t, g.ask(t, "DELETE", one+"/tokens/1", header, nil), http.StatusNotFound)
	if all := g.ask(t, "GET", root, header, nil); strings.Count(string(all.body), `"name":"fresh"`) != 1 {
		t.Errorf("%s", all.body)
	}
	wantStatus(t, g.ask(t, "DELETE", one, header, nil), http.StatusNoContent)
	wantStatus(t, g.ask(t, "GET", one, header, nil), http.StatusNotFound)
	stranger, err := g.AddPAT(PAT{Username: "ci-intern", Scopes: []string{"api"}})
	check(t, err)
	wantStatus(t, g.ask(t, "GET", root, http.Header{"Private-Token": {stranger.Value}}, nil), http.StatusNotFound)
}

func TestJobAPI(t *testing.T) {
	g := start(t, Config{})
	must(t)(g.AddJob(Job{ID: 1, Token: "tok", Project: "acme/infra", User: "ci-user"}))
	if got := g.ask(t, "GET", "/api/v4/job", http.Header{"Job-Token": {"tok"}}, nil).json(t); got["id"] != 1.0 {
		t.Errorf("%v", got)
	}
	wantStatus(t, g.ask(t, "GET", "/api/v4/job", nil, nil), http.StatusUnauthorized)
}
