package gitlab

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
)

const (
	agentToken = "glagent-the-agents-secret"
	jobToken   = "glcbt-the-jobs-secret"
	userKey    = "glpat-the-users-secret"
	csrfToken  = "csrf-secret"
	prefix     = "/sub/path"
)

var (
	keyA = []byte(strings.Repeat("a", keySize))
	keyB = []byte(strings.Repeat("b", keySize))
)

// seen is a request as it came to GitLab.
type seen struct {
	method, path, query, body string
	header                    http.Header
}

// rails plays GitLab: it refuses requests that do not prove to come from kas, notes them, and answers with answer.
type rails struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex
	key    []byte
	seen   []seen
	answer http.HandlerFunc
}

func newRails(t *testing.T, answer http.HandlerFunc) *rails {
	r := &rails{t: t, key: keyA, answer: answer}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(r.Close)
	return r
}

func (r *rails) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	r.seen = append(r.seen, seen{req.Method, req.URL.EscapedPath(), req.URL.RawQuery, string(body), req.Header.Clone()})
	key, answer := r.key, r.answer
	r.mu.Unlock()
	token := req.Header.Get(headerJWT)
	if strings.HasSuffix(req.URL.Path, "/allowed_agents") {
		if token != "" {
			http.Error(w, "no JWT is wanted here", http.StatusTeapot)
			return
		}
	} else if err := verify(token, key); err != nil {
		http.Error(w, "KAS JWT authentication invalid", http.StatusUnauthorized)
		return
	}
	answer(w, req)
}

// verify checks a token as GitLab does, and more: nothing may be in it but what belongs there.
func verify(token string, key []byte) error {
	claims := jwt.RegisteredClaims{}
	_, err := jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("gitlab-kas"), jwt.WithAudience("gitlab"),
		jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(), jwt.WithIssuedAt())
	if err != nil {
		return err
	}
	if life := claims.ExpiresAt.Sub(claims.IssuedAt.Time); life != 30*time.Second {
		return fmt.Errorf("valid for %v", life)
	}
	if skew := claims.IssuedAt.Sub(claims.NotBefore.Time); skew != 5*time.Second {
		return fmt.Errorf("not before iat - %v", skew)
	}
	return nil
}

func (r *rails) requests() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]seen(nil), r.seen...)
}

func (r *rails) set(answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer, r.seen = answer, nil
}

// start starts the server and returns a client of it that is quick to repeat.
func (r *rails) start(change ...func(*Config)) *Client {
	r.t.Helper()
	r.Start()
	return r.client(change...)
}

func (r *rails) client(change ...func(*Config)) *Client {
	r.t.Helper()
	cfg := Config{
		Address: r.URL + prefix + "/", SecretFile: secretFile(r.t, keyA), UserAgent: "gitlab-kas/v1/c0ffee",
		RateLimit: RateLimit{PerSecond: 10000, Burst: 10000}, Registerer: prometheus.NewPedanticRegistry(),
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	c.retries.Initial = time.Millisecond
	r.t.Cleanup(c.Close)
	return c
}

func secretFile(t *testing.T, key []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, base64.StdEncoding.EncodeToString(key)+"\n")
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// text answers with a status and a body of a media type.
func text(status int, media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func ok(body string) http.HandlerFunc { return text(http.StatusOK, "application/json", body) }

func bare(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// inTurn answers with one after the other, and then with the last again and again.
func inTurn(answers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		answer(w, req)
	}
}

const (
	gitalyJSON = `"gitaly_info":{"address":"unix:/gitaly.sock","token":"gitaly-secret","features":{"gitaly-feature-x":"true"}},
		"gitaly_repository":{"storage_name":"default","relative_path":"@hashed/ab.git","gl_repository":"project-31","gl_project_path":"infra/agents",
		"git_alternate_object_directories":[],"something_new":{}},"default_branch":"main"`
	agentInfoJSON   = `{"project_id":31,"agent_id":"7","agent_name":"prod","unknown":[1],` + gitalyJSON + `}`
	projectInfoJSON = `{"project_id":"31",` + gitalyJSON + `}`
	allowedJSON     = `{"allowed_agents":[{"id":7,"config_project":{"id":31,"path":"x"},"configuration":{"default_namespace":"apps",
		"access_as":{"ci_job":{}},"environments":["prod"],"protected_branches_only":true,"resource_management":{"enabled":true}}},
		{"id":"8","config_project":{"id":"31"},"configuration":{}}],
		"job":{"id":9001},"pipeline":{"id":801},"project":{"id":42,"groups":[{"id":5},{"id":2}]},
		"user":{"id":3,"username":"ci-user","roles_in_project":["guest"]},"environment":{"slug":"prod","tier":"production"}}`
	userJSON = `{"agent":{"id":7,"config_project":{"id":31}},"user":{"id":3,"username":"ci-user"},
		"access_as":{"user":{"projects":[{"id":42,"roles":["guest","developer"]}],"groups":[]}}}`
)

// endpoint is one call of the client in a form in which all can be tried alike.
type endpoint struct {
	name   string
	answer string
	// agent: the call is on behalf of an agent, so failures are hidden; once: it is not repeated.
	agent, once bool
	call        func(context.Context, *Client) (any, error)
}

func endpoints() []endpoint {
	return []endpoint{
		{endpointAgentInfo, agentInfoJSON, true, true, func(ctx context.Context, c *Client) (any, error) { return c.AgentByToken(ctx, agentToken) }},
		{endpointProjectInfo, projectInfoJSON, true, true, func(ctx context.Context, c *Client) (any, error) {
			return c.ProjectInfo(ctx, agentToken, "infra/agents")
		}},
		{endpointAllowedAgents, allowedJSON, false, false, func(ctx context.Context, c *Client) (any, error) { return c.AllowedAgents(ctx, jobToken) }},
		{endpointUser, userJSON, false, false, func(ctx context.Context, c *Client) (any, error) { return c.AuthorizeUser(ctx, userRequest()) }},
		{endpointProjectAccess, "", true, true, func(ctx context.Context, c *Client) (any, error) {
			return c.VerifyProjectAccess(ctx, agentToken, "infra/agents")
		}},
		{endpointConfiguration, "", false, false, func(ctx context.Context, c *Client) (any, error) {
			return nil, c.PostConfiguration(ctx, 7, &agentcfg.ConfigurationFile{})
		}},
		{endpointUsage, "", false, true, func(ctx context.Context, c *Client) (any, error) {
			return nil, c.PostUsage(ctx, map[string]int64{"k8s_api_proxy_request": 2}, nil)
		}},
		{endpointEvents, "", false, false, func(ctx context.Context, c *Client) (any, error) {
			return nil, c.PostEvents(ctx, map[string][]any{"register_agent_at_kas": {}})
		}},
	}
}

func (e endpoint) good() http.HandlerFunc {
	if e.answer == "" {
		return bare(http.StatusNoContent)
	}
	return ok(e.answer)
}

func userRequest() *gitlabapi.AuthorizeProxyUserRequest {
	return &gitlabapi.AuthorizeProxyUserRequest{AgentId: 7, AccessType: "session_cookie", AccessKey: userKey, CsrfToken: csrfToken}
}

// noSecrets fails if a text holds anything that must not be shown.
func noSecrets(t *testing.T, what, text string) {
	t.Helper()
	for _, secret := range []string{agentToken, jobToken, userKey, csrfToken, "gitaly-secret", "pa55word", string(keyA)} {
		if strings.Contains(text, secret) {
			t.Errorf("%s shows a secret: %s", what, text)
		}
	}
}
