package gitlab

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAgentConfiguration_BadRequests(t *testing.T) {
	g := start(t, Config{})
	for body, want := range map[string]int{
		`{"agent_id":"7","agent_config":{}}`:  204,
		`{"agent_id":7,"agent_config":{}}`:    204,
		`{"agent_id":"99","agent_config":{}}`: 404,
		`{"agent_id":"x","agent_config":{}}`:  400,
		`{"agent_config":{}}`:                 400,
		`{"agent_id":"7"}`:                    400,
		`{"agent_id":"7","agent_config":[]}`:  400,
		`[]`:                                  400,
		`{`:                                   400,
	} {
		t.Run(body, func(t *testing.T) {
			wantStatus(t, g.ask(t, "POST", "/api/v4/internal/kubernetes/agent_configuration", g.kasHeader(t, nil), body), want)
		})
	}
	if file, posts, _ := g.Configuration(edgeID); file == nil || posts != 2 {
		t.Errorf("%v, %d posts", file, posts)
	}
}

func TestUsageMetrics(t *testing.T) {
	g := start(t, Config{})
	post := func(body string) int {
		return g.ask(t, "POST", "/api/v4/internal/kubernetes/usage_metrics", g.kasHeader(t, nil), body).status
	}
	for body, want := range map[string]int{
		`{"counters":{"k8s_api_proxy_request":2}}`:                                 204,
		`{"counters":{"k8s_api_proxy_request":3},"unique_counters":{"u":[2,1,2]}}`: 204,
		`{"unique_counters":{"u":[3]}}`:                                            204,
		`{"counters":{"a":"many"}}`:                                                400,
		`{"counters":[]}`:                                                          400,
		`{"unique_counters":{"u":1}}`:                                              400,
		`{"unique_counters":{"u":["x"]}}`:                                          400,
		`{"unique_counters":[]}`:                                                   400,
		`nonsense`:                                                                 400,
	} {
		if got := post(body); got != want {
			t.Errorf("%s: %d, want %d", body, got, want)
		}
	}
	if got := g.Counters(); !cmp.Equal(got, map[string]int64{"k8s_api_proxy_request": 5}) {
		t.Errorf("counters %v", got)
	}
	if got := g.UniqueCounters(); !cmp.Equal(got, map[string][]int64{"u": {1, 2, 3}}) {
		t.Errorf("unique counters %v", got)
	}
}

func TestAgentEvents(t *testing.T) {
	g := start(t, Config{})
	const kind = "register_agent_at_kas"
	for item, want := range map[string]int{
		`{"project_id":31,"agent_id":7,"agent_version":"v18.3.0","architecture":"amd64","kubernetes_version":"v1.33.0"}`: 204,
		`{"project_id":"x","agent_id":7}`: 400,
		`{"agent_id":7}`:                  400,
		`7`:                               400,
	} {
		body := fmt.Sprintf(`{"events":{%q:[%s]}}`, kind, item)
		wantStatus(t, g.ask(t, "POST", "/api/v4/internal/kubernetes/agent_events", g.kasHeader(t, nil), body), want)
	}
	wantStatus(t, g.ask(t, "POST", "/api/v4/internal/kubernetes/agent_events", g.kasHeader(t, nil), `{"events":[]}`), 400)
	if got := g.Events(kind); len(got) != 1 || got[0]["agent_version"] != "v18.3.0" {
		t.Errorf("%v", got)
	}
}

func TestReceptiveAgents(t *testing.T) {
	g := start(t, Config{Settings: Settings{Tier: Premium}})
	ask := func() *reply {
		return g.ask(t, "GET", "/api/v4/internal/kubernetes/receptive_agents", g.kasHeader(t, nil), nil)
	}
	wantStatus(t, ask(), http.StatusNotFound)
	g.Change(func(s *Settings) { s.Tier = Ultimate })
	if got := ask().json(t); !cmp.Equal(got, map[string]any{"agents": []any{}}) {
		t.Errorf("%v", got)
	}
	g.Change(func(s *Settings) { s.ReceptiveAgents = []ReceptiveAgent{{ID: 7, URL: "grpc://a:1"}} })
	if got := ask().json(t)["agents"].([]any)[0].(map[string]any); got["url"] != "grpc://a:1" || got["jwt"] != nil {
		t.Errorf("%v", got)
	}
}

func TestModules(t *testing.T) {
	seen := make(chan string, 1)
	g := start(t, Config{Settings: Settings{Modules: map[string]http.Handler{
		"odd/name": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Method + " " + r.URL.EscapedPath() + "?" + r.URL.RawQuery + " " + r.Header.Get("X-Own")
			w.Header().Set("X-Answer", "1")
			w.WriteHeader(http.StatusTeapot)
		}),
	}}})
	token, err := g.CreateToken(edgeID)
	check(t, err)
	header := g.agentHeader(t, token.Value, HeaderAgent)
	header.Set("X-Own", "yes")
	r := g.ask(t, "PATCH", modulesRoot+"odd%2Fname/a%2Fb//c?d=e", header, "x")
	wantStatus(t, r, http.StatusTeapot)
	if got := <-seen; got != "PATCH /a%2Fb//c?d=e yes" || r.header.Get("X-Answer") != "1" {
		t.Errorf("got %s", got)
	}
	if requests := g.Requests(Modules); len(requests) != 1 || string(requests[0].Body) != "x" || requests[0].Status != http.StatusTeapot {
		t.Errorf("%+v", requests)
	}
	wantStatus(t, g.ask(t, "GET", modulesRoot+"unknown/x", header, nil), http.StatusNotFound)
	wantStatus(t, g.ask(t, "GET", modulesRoot+"odd%2Fname/", g.kasHeader(t, nil), nil), http.StatusUnauthorized)
	finding := `{"vulnerability":{"name":"CVE-1"},"scanner":{"id":"s"}}`
	first := g.ask(t, "PUT", modulesRoot+"starboard_vulnerability/", header, finding)
	wantStatus(t, first, http.StatusOK)
	if uuid := first.json(t)["uuid"]; uuid == "" || g.ask(t, "PUT", modulesRoot+"starboard_vulnerability/", header, finding).json(t)["uuid"] != uuid {
		t.Errorf("uuid %v", uuid)
	}
	wantStatus(t, g.ask(t, "PUT", modulesRoot+"starboard_vulnerability/", header, `{}`), http.StatusBadRequest)
	wantStatus(t, g.ask(t, "POST", modulesRoot+"starboard_vulnerability/scan_result", header, `{"uuids":[]}`), http.StatusOK)
	wantStatus(t, g.ask(t, "GET", modulesRoot+"starboard_vulnerability/policies_configuration", header, nil), http.StatusOK)
}
