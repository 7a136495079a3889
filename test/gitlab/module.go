package gitlab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// scanning is the module by which container scans of agents are reported.
const scanning = "starboard_vulnerability"

// serveModule hands what a module of an agent asks for to that module's handler, below the module's own root.
func (g *GitLab) serveModule(w http.ResponseWriter, r *http.Request) {
	g.kasOnly(g.agentOnly(func(w http.ResponseWriter, r *http.Request, _ *agent) {
		escaped, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), modulesRoot), "/")
		name, err := url.PathUnescape(escaped)
		if err != nil {
			fail(w, http.StatusBadRequest, "")
			return
		}
		handler := g.current().Modules[name]
		if handler == nil && name == scanning {
			handler = http.HandlerFunc(serveScanning)
		}
		if handler == nil {
			fail(w, http.StatusNotFound, "404 Not Found")
			return
		}
		below, err := url.ParseRequestURI("/" + path)
		if err != nil {
			fail(w, http.StatusBadRequest, "")
			return
		}
		below.RawQuery = r.URL.RawQuery
		inner := r.Clone(r.Context())
		inner.URL = below
		handler.ServeHTTP(w, inner)
	}))(w, r)
}

// serveScanning takes findings and says that there is no policy.
func serveScanning(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "PUT /":
		body, err := bodyOf(r)
		if err != nil || body["vulnerability"] == nil || body["scanner"] == nil {
			fail(w, http.StatusBadRequest, "vulnerability is missing, or scanner is")
			return
		}
		// The same finding has the same identity. Marshal writes keys in order.
		content, err := json.Marshal(body["vulnerability"])
		if err != nil {
			fail(w, http.StatusBadRequest, "")
			return
		}
		sum := sha256.Sum256(content)
		answer(w, http.StatusOK, map[string]string{"uuid": hex.EncodeToString(sum[:16])})
	case "POST /scan_result":
		answer(w, http.StatusOK, map[string]any{})
	case "GET /policies_configuration":
		answer(w, http.StatusOK, map[string]any{"configurations": []any{}})
	default:
		fail(w, http.StatusNotFound, "404 Not Found")
	}
}
