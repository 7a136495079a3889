package gitlab

import (
	"encoding/json"
	"net/http"
	"strings"
)

const (
	apiRoot     = "/api/v4"
	modulesRoot = apiRoot + "/internal/kubernetes/modules/"
)

// handler serves everything below the path prefix.
func (g *GitLab) handler() http.Handler {
	mux := g.routes()
	modules := g.observed(Modules, g.serveModule)
	var below http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Modules get their path as it was sent; a mux would clean it.
		if strings.HasPrefix(r.URL.EscapedPath(), modulesRoot) {
			modules(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	if g.cfg.PathPrefix != "" {
		below = http.StripPrefix(g.cfg.PathPrefix, below)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", g.cfg.Now().UTC().Format(http.TimeFormat)) // the clock that its tokens go by
		below.ServeHTTP(w, r)
	})
}

func (g *GitLab) routes() *http.ServeMux {
	mux := http.NewServeMux()
	route := func(pattern string, e Endpoint, handle http.HandlerFunc) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+apiRoot+path, g.observed(e, handle))
	}
	internal := func(pattern string, e Endpoint, handle http.HandlerFunc) { route(pattern, e, g.kasOnly(handle)) }
	internal("GET /internal/kubernetes/agent_info", AgentInfo, g.agentOnly(g.serveAgentInfo))
	if g.release.atLeast(18, 0) {
		internal("GET /internal/agents/agentk/agent_info", AgentInfo, g.agentOnly(g.serveAgentInfo))
	}
	if !g.release.atLeast(18, 0) {
		internal("GET /internal/kubernetes/project_info", ProjectInfo, g.agentOnly(g.serveProjectInfo))
	}
	internal("POST /internal/kubernetes/agent_configuration", AgentConfiguration, g.serveAgentConfiguration)
	internal("POST /internal/kubernetes/usage_metrics", UsageMetrics, g.serveUsageMetrics)
	if g.release.atLeast(16, 0) {
		internal("GET /internal/kubernetes/verify_project_access", VerifyProjectAccess, g.agentOnly(g.serveVerifyProjectAccess))
		internal("POST /internal/kubernetes/authorize_proxy_user", AuthorizeProxyUser, g.serveAuthorizeProxyUser)
	}
	if g.release.atLeast(17, 2) {
		internal("POST /internal/kubernetes/agent_events", AgentEvents, g.serveAgentEvents)
	}
	if g.release.atLeast(17, 4) {
		internal("GET /internal/kubernetes/receptive_agents", ReceptiveAgents, g.serveReceptiveAgents)
	}
	route("GET /job/allowed_agents", AllowedAgents, g.serveAllowedAgents)
	g.publicRoutes(route)
	mux.HandleFunc("/", g.observed(GitHTTP, g.serveGit))
	mux.HandleFunc(apiRoot+"/", g.observed(Unknown, func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "") }))
	return mux
}

// answer writes a JSON answer.
func answer(w http.ResponseWriter, status int, body any) {
	content, err := json.Marshal(body)
	if err != nil {
		fail(w, http.StatusInternalServerError, "")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(content)
}

// fail writes an error as the API does.
func fail(w http.ResponseWriter, status int, message string) {
	if message == "" {
		message = http.StatusText(status)
	}
	answer(w, status, map[string]string{"message": message})
}

// bodyOf reads the JSON object that a request carries. Numbers stay as they were written.
func bodyOf(r *http.Request) (map[string]any, error) {
	decoder := json.NewDecoder(r.Body)
	decoder.UseNumber()
	var body map[string]any
	if err := decoder.Decode(&body); err != nil || body == nil {
		return nil, errNoBody
	}
	return body, nil
}
