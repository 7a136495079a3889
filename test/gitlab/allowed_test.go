package gitlab

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const allowedPath = "/api/v4/job/allowed_agents"

// allowed are the ids of agents that a job may use, with their configuration.
func (g *GitLab) allowed(t *testing.T, jobID int64) map[int64]map[string]any {
	t.Helper()
	g.mu.Lock()
	token := g.db.jobs[jobID].Token
	g.mu.Unlock()
	r := g.ask(t, "GET", allowedPath, http.Header{"Job-Token": {token}}, nil)
	wantStatus(t, r, http.StatusOK)
	found := map[int64]map[string]any{}
	for _, a := range r.json(t)["allowed_agents"].([]any) {
		agent := a.(map[string]any)
		found[int64(agent["id"].(float64))] = agent["configuration"].(map[string]any)
	}
	return found
}

func TestAllowedAgents_Answer(t *testing.T) {
	g := start(t, Config{Settings: Settings{Tier: Premium}})
	g.configure(t, edgeID, `{"ci_access":{"projects":[{"id":"acme/team/shop","default_namespace":"apps","access_as":{"ci_job":{}}}]}}`)
	must(t)(g.AddJob(Job{ID: 1, Pipeline: 2, Token: "tok", Project: "acme/team/shop", User: "ci-user", Environment: "prod"}))
	got := g.ask(t, "GET", allowedPath, http.Header{"Job-Token": {"tok"}}, nil).json(t)
	delete(got["environment"].(map[string]any), "id")
	agents := got["allowed_agents"].([]any)
	delete(got, "allowed_agents")
	want := map[string]any{
		"job": map[string]any{"id": 1.0}, "pipeline": map[string]any{"id": 2.0},
		"project":     map[string]any{"id": 42.0, "groups": []any{map[string]any{"id": 6.0}, map[string]any{"id": 5.0}}},
		"user":        map[string]any{"id": 3.0, "username": "ci-user", "roles_in_project": []any{"guest", "planner", "reporter", "developer"}},
		"environment": map[string]any{"name": "prod", "slug": "prod", "tier": "production"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	agent := agents[0].(map[string]any)
	if id := agent["config_project"].(map[string]any)["id"]; id != 31.0 || len(agents) != 1 {
		t.Errorf("agents %v", agents)
	}
	wantConfig := map[string]any{"default_namespace": "apps", "access_as": map[string]any{"ci_job": map[string]any{}}}
	if diff := cmp.Diff(wantConfig, agent["configuration"]); diff != "" {
		t.Error(diff)
	}
}

func TestAllowedAgents_NoEnvironment(t *testing.T) {
	g := start(t, Config{})
	must(t)(g.AddJob(Job{ID: 1, Token: "tok", Project: "acme/infra", User: "ci-user"}))
	body := g.ask(t, "GET", allowedPath, http.Header{"Job-Token": {"tok"}}, nil).json(t)
	if _, there := body["environment"]; there || len(body["allowed_agents"].([]any)) != 1 {
		t.Errorf("%v", body)
	}
}

func TestAllowedAgents_Tokens(t *testing.T) {
	g := start(t, Config{})
	pat, err := g.AddPAT(PAT{Username: "ci-user", Scopes: []string{"api"}})
	check(t, err)
	must(t)(g.AddJob(Job{ID: 1, Token: "tok", Project: "acme/infra", User: "ci-user"}))
	ask := func(token string) int {
		return g.ask(t, "GET", allowedPath, http.Header{"Job-Token": {token}}, nil).status
	}
	if got := []int{ask("tok"), ask("unknown"), ask(""), ask(pat.Value)}; !cmp.Equal(got, []int{200, 401, 401, 404}) {
		t.Errorf("running, unknown, none, of a person: %v", got)
	}
	check(t, g.FinishJob(1))
	if got := ask("tok"); got != 401 {
		t.Errorf("finished: %d", got)
	}
}

func TestAllowedAgents_Matching(t *testing.T) {
	const shop, team, acme = `{"id":"acme/team/shop"%s}`, `{"id":"acme/team"%s}`, `{"id":"acme"%s}`
	projects := func(entries ...string) string {
		return `{"ci_access":{"projects":[` + strings.Join(entries, ",") + `]}}`
	}
	groups := func(entries ...string) string {
		return `{"ci_access":{"groups":[` + strings.Join(entries, ",") + `]}}`
	}
	with := func(entry, more string) string { return fmt.Sprintf(entry, more) }
	for name, test := range map[string]struct {
		config  string
		version string
		tier    Tier
		ref     string
		env     string
		want    bool
	}{
		"nothing":                          {config: `{}`},
		"project":                          {config: projects(with(shop, "")), want: true},
		"project in other case":            {config: projects(`{"id":"ACME/Team/Shop"}`), want: true},
		"other project":                    {config: projects(`{"id":"acme/infra"}`)},
		"unknown project":                  {config: projects(`{"id":"acme/none"}`)},
		"own group":                        {config: groups(with(team, "")), want: true},
		"group above":                      {config: groups(with(acme, "")), want: true},
		"other group":                      {config: groups(`{"id":"other"}`)},
		"environment equal":                {config: projects(with(shop, `,"environments":["prod"]`)), env: "prod", want: true},
		"environment other":                {config: projects(with(shop, `,"environments":["prod"]`)), env: "production"},
		"environment by wildcard":          {config: projects(with(shop, `,"environments":["review/*"]`)), env: "review/feature-1", want: true},
		"environment wildcard unanchored":  {config: projects(with(shop, `,"environments":["view/*"]`)), env: "review/feature-1", want: true},
		"environment dot is any character": {config: projects(with(shop, `,"environments":["r.view/*"]`)), env: "review/1", want: true},
		"environment wildcard no match":    {config: projects(with(shop, `,"environments":["prod*"]`)), env: "review/1"},
		"environment wanted, none":         {config: projects(with(shop, `,"environments":["*"]`))},
		"environments empty":               {config: projects(with(shop, `,"environments":[]`)), want: true},
		"environment expression is broken": {config: projects(with(shop, `,"environments":["(*"]`)), env: "review/1"},
		"protected branch":                 {config: projects(with(shop, `,"protected_branches_only":true`)), ref: "main", want: true},
		"protected by pattern":             {config: projects(with(shop, `,"protected_branches_only":true`)), ref: "release-1/2", want: true},
		"not protected":                    {config: projects(with(shop, `,"protected_branches_only":true`)), ref: "feature"},
		"not protected, before 17.3":       {config: projects(with(shop, `,"protected_branches_only":true`)), ref: "feature", version: "17.2", want: true},
		"agent in the free tier":           {config: projects(with(shop, `,"access_as":{"agent":{}}`)), want: true},
		"empty in the free tier":           {config: projects(with(shop, `,"access_as":{}`)), want: true},
		"ci_job in the free tier":          {config: projects(with(shop, `,"access_as":{"ci_job":{}}`))},
		"ci_user in the free tier":         {config: projects(with(shop, `,"access_as":{"ci_user":{}}`))},
		"impersonate in the free tier":     {config: projects(with(shop, `,"access_as":{"impersonate":{"username":"x"}}`))},
		"ci_job in Premium":                {config: projects(with(shop, `,"access_as":{"ci_job":{}}`)), tier: Premium, want: true},
		"first entry counts, then filters": {config: `{"ci_access":{"projects":[` + with(shop, `,"environments":["prod"]`) + `],"groups":[` + with(acme, "") + `]}}`, env: "x"},
		"nearest group counts":             {config: groups(with(acme, ""), with(team, `,"environments":["prod"]`)), env: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, Config{Version: test.version, Settings: Settings{Tier: test.tier}})
			g.configure(t, edgeID, test.config)
			j, err := g.AddJob(Job{Project: "acme/team/shop", User: "ci-user", Ref: test.ref, Environment: test.env})
			check(t, err)
			if _, got := g.allowed(t, j.ID)[edgeID]; got != test.want {
				t.Errorf("allowed %t", got)
			}
		})
	}
}

func TestAllowedAgents_OwnProject(t *testing.T) {
	g := start(t, Config{})
	own, err := g.AddJob(Job{Project: "acme/infra", User: "ci-user"})
	check(t, err)
	if got := g.allowed(t, own.ID); len(got) != 1 || len(got[edgeID]) != 0 {
		t.Errorf("without any configuration: %v", got)
	}
	g.configure(t, edgeID, `{"ci_access":{"projects":[{"id":"acme/infra","default_namespace":"n"}]}}`)
	if got := g.allowed(t, own.ID)[edgeID]["default_namespace"]; got != "n" {
		t.Errorf("with an entry for itself: %v", got)
	}
	g.configure(t, edgeID, `{"ci_access":{"projects":[{"id":"acme/infra","environments":["prod"]}]}}`)
	if got := g.allowed(t, own.ID); len(got) != 0 {
		t.Errorf("the entry does not replace what is implied: %v", got)
	}
	g.configure(t, edgeID, `{}`)
	if got := g.allowed(t, own.ID); len(got) != 1 {
		t.Errorf("rows are left over: %v", got)
	}
}

func TestAllowedAgents_OtherNamespaces(t *testing.T) {
	g := start(t, Config{Version: "17.11"})
	docs, err := g.AddJob(Job{Project: "other/docs", User: "ci-intern"})
	check(t, err)
	both := `{"ci_access":{"projects":[{"id":"other/docs"}],"instance":{"default_namespace":"all"}}}`
	g.configure(t, edgeID, both)
	if got := g.allowed(t, docs.ID); len(got) != 0 {
		t.Errorf("without the setting: %v", got)
	}
	_, posts, ignored := g.Configuration(edgeID)
	want := []Ignored{{"ci_access", "projects", "other/docs", "other namespace"}, {"ci_access", "instance", "", "not enabled"}}
	if posts != 1 || !cmp.Equal(ignored, want) {
		t.Errorf("%d posts, ignored %v", posts, ignored)
	}
	g.Change(func(s *Settings) { s.InstanceAuthorization = true })
	g.configure(t, edgeID, both)
	if got := g.allowed(t, docs.ID); len(got[edgeID]) != 0 || len(got) != 1 {
		t.Errorf("with the setting, by project: %v", got)
	}
	g.configure(t, edgeID, `{"ci_access":{"instance":{"default_namespace":"all"}}}`)
	if got := g.allowed(t, docs.ID)[edgeID]["default_namespace"]; got != "all" {
		t.Errorf("with the setting, by instance: %v", got)
	}
}

func TestAllowedAgents_Caps(t *testing.T) {
	for version, limit := range map[string]int{"16.11": 100, "17.0": 500} {
		g := start(t, Config{Version: version})
		entries := []string{}
		for range limit {
			entries = append(entries, `{"id":"acme/infra"}`)
		}
		g.configure(t, edgeID, `{"ci_access":{"projects":[`+strings.Join(append(entries, `{"id":"acme/team/shop"}`), ",")+`]}}`)
		if got := g.allowed(t, shopJob); len(got) != 0 {
			t.Errorf("%s: entry %d counts", version, limit+1)
		}
		if _, _, ignored := g.Configuration(edgeID); len(ignored) != 1 || ignored[0].Why != "above the cap" {
			t.Errorf("%s: ignored %v", version, ignored)
		}
		entries[limit-1] = `{"id":"acme/team/shop"}`
		g.configure(t, edgeID, `{"ci_access":{"projects":[`+strings.Join(entries, ",")+`]}}`)
		if got := g.allowed(t, shopJob); len(got) != 1 {
			t.Errorf("%s: entry %d does not count", version, limit)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	g := start(t, Config{})
	if got, err := g.Kubeconfig(shopJob); err != nil || got != "" {
		t.Errorf("without an agent: %q, %v", got, err)
	}
	g.configure(t, edgeID, `{"ci_access":{"groups":[{"id":"acme","default_namespace":"apps"}]}}`)
	must(t)(g.AddJob(Job{ID: 1, Token: "tok", Project: "acme/team/shop", User: "ci-user"}))
	want := `apiVersion: v1
kind: Config
clusters:
  - name: gitlab
    cluster:
      server: https://kas.corp.test/-/kubernetes-agent/k8s-proxy
users:
  - name: agent:7
    user:
      token: ci:7:tok
contexts:
  - name: acme/infra:edge
    context:
      cluster: gitlab
      namespace: apps
      user: agent:7
`
	if got, err := g.Kubeconfig(1); err != nil || got != want {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
	if _, err := g.Kubeconfig(99); err == nil {
		t.Error("no error for a job that is not there")
	}
}

func TestProxyURL(t *testing.T) {
	for _, test := range []struct{ external, proxy, want string }{
		{"wss://kas.gl.test", "", "https://kas.gl.test/k8s-proxy"},
		{"ws://gl.test/-/kubernetes-agent/", "", "http://gl.test/-/kubernetes-agent/k8s-proxy"},
		{"grpcs://gl.test:8150", "", "https://gl.test:8150/k8s-proxy"},
		{"grpc://gl.test:8150", "https://proxy.gl.test/", "https://proxy.gl.test/"},
	} {
		if got := (KasSettings{ExternalURL: test.external, ExternalK8sProxyURL: test.proxy}).proxyURL(); got != test.want {
			t.Errorf("%s: %s, want %s", test.external, got, test.want)
		}
	}
}
