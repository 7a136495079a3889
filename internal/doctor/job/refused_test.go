package job

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
	"gitlab.com/agentk/agentk/internal/doctor/reach"
)

// TestRefused has the answers of stock servers and of ours; those of the line are in the tests with real parts.
func TestRefused(t *testing.T) {
	const kas = "GitLab Agent Server: "
	const lost = "HTTP->gRPC: failed to read gRPC response: rpc error: code = "
	for _, c := range []struct {
		code          int
		message, want string
		kind          string
	}{
		{401, kas + "Unauthorized: CI job token: HTTP status code: 401 for path /api/v4/job/allowed_agents", "job-token-refused", "ci"},
		{404, kas + "Not found: agents for CI job token: HTTP status code: 404 for path /x", "job-token-refused", "ci"},
		{403, kas + "Forbidden: CI job token: HTTP status code: 403 for path /x", "job-token-refused", "ci"},
		{403, kas + "Forbidden: agentId is not allowed. Trace ID: 0123", "not-in-ci-access", "ci"},
		{401, kas + "Unauthorized", "user-token-refused", "pat"},
		{500, kas + "Failed to get allowed agents for CI job token: HTTP status code: 502", "gitlab-behind-kas", "ci"},
		{500, kas + "Failed to authorize user session", "gitlab-behind-kas", "pat"},
		{400, kas + "Bad request: URL does not start with expected prefix", "wrong-prefix", "ci"},
		{429, kas + "Too many requests", "agent-busy", "ci"},
		{502, kas + lost + "DeadlineExceeded desc = Agent connection not found. Is agent up to date and connected?", "agent-offline", "ci"},
		{502, kas + lost + "Unavailable desc = Find tunnel failed", "agent-offline", "ci"},
		{502, kas + lost + "Unavailable desc = gRPC -> HTTP: dial tcp 10.0.0.1:443: connect: connection refused", "cluster-behind-agent", "ci"},
		{502, kas + lost + "Unavailable desc = gRPC -> HTTP: nested impersonation is not supported", "nested-impersonation", "ci"},
		{401, "Unauthorized", "cluster-behind-agent", "ci"},
		{403, `users "gitlab:ci_job:1" is forbidden: User "system:serviceaccount:a:b" cannot impersonate resource "users" in API group ""`, "impersonate", "ci"},
		{403, `forbidden: User "gitlab:ci_job:1" cannot get path "/version"`, "job-rights", "ci"},
		{302, "", "redirect", "ci"},
		{404, "<html>", "not-routed", "ci"},
		{502, "<html>", "bad-gateway", "ci"},
		{200, "<html>", "web-page", "ci"},
		{418, "", "not-the-proxy", "ci"},
	} {
		w := &way{credential: credential{kind: c.kind}, target: reach.Target{URL: &url.URL{Scheme: "https", Host: "kas.test"}}}
		body := []byte(c.message)
		if c.message == "" || c.message[0] != '<' {
			body, _ = json.Marshal(map[string]string{"kind": "Status", "message": c.message})
		}
		if o := w.refused(&kubeapi.Answer{Code: c.code, Header: http.Header{}, Body: body}); o.Cause != c.want {
			t.Errorf("%d %s: %s, want %s", c.code, c.message, o.Cause, c.want)
		}
	}
}
