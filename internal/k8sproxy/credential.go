package k8sproxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"gitlab.com/agentk/agentk/internal/fault"
)

// access is the way a client proves who it is; it is a metric label.
type access string

const (
	accessNone    access = "none"
	accessCI      access = "ci"
	accessPAT     access = "pat"
	accessSession access = "session"
)

const (
	headerAuthorization = "Authorization"
	headerCookie        = "Cookie"
	headerAgentID       = "Gitlab-Agent-Id"
	headerCSRF          = "X-Csrf-Token"
	queryAgentID        = "gitlab-agent-id"
	queryCSRF           = "gitlab-csrf-token"
	cookieName          = "_gitlab_kas"
	bearer              = "Bearer "
)

// credential is what a client has shown. Nothing else of the request says which agent is meant.
type credential struct {
	access  access
	agentID int64
	// token is a job token, a personal access token or a session cookie. It is a secret.
	token string
	// csrf belongs to a session cookie. It is a secret.
	csrf string
}

// unauthorized is the refusal of a credential. detail is for the client; label, the part without what the client has sent, is
// for the log: a credential with its parts in the wrong order would otherwise get there.
func unauthorized(label, detail string) *refusal {
	return &refusal{code: http.StatusUnauthorized, hop: fault.Client, msg: "Unauthorized: " + label + detail, logged: "Unauthorized: " + label}
}

// credentialOf reads the one credential of a request. If there is an Authorization header, nothing else is looked at.
func credentialOf(h http.Header, query url.Values) (credential, *refusal) {
	if values := h[headerAuthorization]; len(values) > 0 {
		return bearerCredential(values)
	}
	cookie, err := (&http.Request{Header: h}).Cookie(cookieName)
	if err != nil {
		return credential{}, unauthorized("no valid credentials provided", "")
	}
	return sessionCredential(cookie.Value, h, query)
}

func bearerCredential(values []string) (credential, *refusal) {
	const label = headerAuthorization + " header: "
	if len(values) > 1 {
		return credential{}, unauthorized(label+fmt.Sprintf("expecting a single header, got %d", len(values)), "")
	}
	value, ok := strings.CutPrefix(values[0], bearer)
	if !ok {
		return credential{}, unauthorized(label+"expecting Bearer token", "")
	}
	kind, rest, ok := strings.Cut(value, ":")
	if !ok {
		return credential{}, unauthorized(label+"invalid value", "")
	}
	c := credential{access: access(kind)}
	if c.access != accessCI && c.access != accessPAT {
		return credential{}, unauthorized(label+"unknown token type", "")
	}
	agent, token, ok := strings.Cut(rest, ":")
	if !ok {
		return credential{}, unauthorized(label+"invalid value", "")
	}
	id, err := strconv.ParseInt(agent, 10, 64)
	if err != nil {
		return credential{}, unauthorized(label+"failed to parse", ": "+err.Error())
	}
	if id <= 0 {
		return credential{}, unauthorized(label+"agent id must be positive", "")
	}
	if token == "" {
		return credential{}, unauthorized(label+"empty token", "")
	}
	c.agentID, c.token = id, token
	return c, nil
}

func sessionCredential(cookie string, h http.Header, query url.Values) (credential, *refusal) {
	token, err := url.QueryUnescape(cookie)
	if err != nil {
		return credential{}, unauthorized(cookieName+" invalid cookie value", "")
	}
	if token == "" {
		return credential{}, unauthorized(cookieName+" cookie value must not be empty", "")
	}
	agent, label := oneOf(h, headerAgentID, query, queryAgentID, "agent id")
	if label != "" {
		return credential{}, unauthorized(label, "")
	}
	id, err := strconv.ParseInt(agent, 10, 64)
	if err != nil || id <= 0 {
		return credential{}, unauthorized("agent id in request: invalid value", fmt.Sprintf(": %q", agent))
	}
	csrf, label := oneOf(h, headerCSRF, query, queryCSRF, "CSRF token")
	if label != "" {
		return credential{}, unauthorized(label, "")
	}
	return credential{access: accessSession, agentID: id, token: token, csrf: csrf}, nil
}

// oneOf reads a value that comes in a header or else in the query, once. The second result says what is wrong with it.
func oneOf(h http.Header, header string, query url.Values, param, what string) (string, string) {
	switch values := h[header]; len(values) {
	case 1:
		return values[0], ""
	case 0:
		if values := query[param]; len(values) == 1 {
			return values[0], ""
		}
		return "", fmt.Sprintf("exactly one %s must be provided either in the %q header or %q query parameter", what, header, param)
	default:
		return "", header + " header must have exactly one value"
	}
}
