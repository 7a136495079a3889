package k8sproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

// session are the headers of a browser.
func session(more ...string) []string {
	return append([]string{"Cookie", "_gitlab_kas=canary-cookie", "Gitlab-Agent-Id", "7", "X-Csrf-Token", "canary-csrf"}, more...)
}

const patBearer = "Bearer pat:7:canary-pat"

// clusterHeader is an answer with every kind of header.
var clusterHeader = []string{
	"Audit-Id", "1", "Cache-Control", "no-store", "Content-Type", "text/html", "Content-Language", "en", "Date", "Fri, 20 Nov 2026 07:00:00 GMT", "Etag", `"e"`,
	"Last-Modified", "Fri, 20 Nov 2026 06:00:00 GMT", "Retry-After", "1", "Server", "cluster", "Vary", "Accept", "Via", "2.0 gitlab-agent/v16", "Warning", `299 - "old"`,
	"X-Kubernetes-Pf-Flowschema-Uid", "f", "X-Kubernetes-Pf-Prioritylevel-Uid", "p", "X-Extra", "extra",
	"Location", "/-/profile", "Refresh", "0;url=/", "Link", "</x>; rel=preload", "Www-Authenticate", "Basic", "X-Frame-Options", "ALLOWALL", "X-Content-Type-Options", "none",
	"Content-Security-Policy", "default-src *", "Content-Security-Policy-Report-Only", "report-uri /", "Set-Cookie", "_gitlab_session=evil",
	"Access-Control-Allow-Origin", "*", "Access-Control-Expose-Headers", "X", "Service-Worker-Allowed", "/", "Gitlab-Unauthorized", "true", "Clear-Site-Data", "*",
}

func answers(code int32) func(a *agenttest.Agent) error {
	return func(a *agenttest.Agent) error { return a.Answer(code, "<script>", clusterHeader...) }
}

func TestSession_ResponseHeaderAllowList(t *testing.T) {
	for _, code := range []int32{200, 302, 401, 500} {
		l := newLine(t, answers(code), func(c *k8sproxy.Config) {
			c.ExtraAllowedResponseHeaders = []string{"x-extra", "Location", "Set-Cookie", "content-security-policy"}
		})
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		t.Cleanup(client.CloseIdleConnections)
		got := l.doWith(client, "GET", "/version", nil, session("Origin", origin)...)
		h := got.Header
		delete(h, "Via")
		delete(h, "Content-Length")
		want := http.Header{
			"Audit-Id": {"1"}, "Cache-Control": {"no-store"}, "Content-Type": {"text/html"}, "Content-Language": {"en"}, "Date": {"Fri, 20 Nov 2026 07:00:00 GMT"}, "Etag": {`"e"`},
			"Last-Modified": {"Fri, 20 Nov 2026 06:00:00 GMT"}, "Retry-After": {"1"}, "Server": {"cluster"}, "Vary": {"Origin", "Accept"}, "Warning": {`299 - "old"`},
			"X-Kubernetes-Pf-Flowschema-Uid": {"f"}, "X-Kubernetes-Pf-Prioritylevel-Uid": {"p"}, "X-Extra": {"extra"},
			"X-Content-Type-Options": {"nosniff"}, "Content-Security-Policy": {"default-src 'none'; sandbox; frame-ancestors 'none'"},
			"Access-Control-Allow-Origin": {origin}, "Access-Control-Allow-Credentials": {"true"},
		}
		if diff := cmp.Diff(want, h); diff != "" || got.StatusCode != int(code) || got.body != "<script>" {
			t.Errorf("%d %q\n%s", got.StatusCode, got.body, diff)
		}
	}
}

func TestSession_BlockedHeadersAreLoggedOnce(t *testing.T) {
	l := newLine(t, answers(200))
	for range 2 {
		l.do("GET", "/version", session()...)
	}
	var logged []string
	for _, entry := range l.logs.FilterMessage("Blocked Kubernetes API proxy response header").All() {
		logged = append(logged, entry.ContextMap()["header"].(string))
	}
	slices.Sort(logged)
	want := []string{
		"Access-Control-Expose-Headers", "Clear-Site-Data", "Content-Security-Policy-Report-Only", "Gitlab-Unauthorized", "Link", "Location", "Refresh",
		"Service-Worker-Allowed", "Set-Cookie", "Www-Authenticate", "X-Extra", "X-Frame-Options",
	}
	if diff := cmp.Diff(want, logged); diff != "" {
		t.Error(diff)
	}
}

// The names are the cluster's: it must not fill the log or the memory of kas.
func TestSession_BlockedNamesAreBounded(t *testing.T) {
	n := 0
	l := newLine(t, func(a *agenttest.Agent) error {
		var header []string
		for range 600 {
			n++
			header = append(header, fmt.Sprintf("X-Made-Up-%d", n), "x")
		}
		return a.Answer(200, "", header...)
	})
	for range 2 {
		if got := l.do("GET", "/version", session()...); got.StatusCode != 200 {
			t.Fatalf("%v", got.Response)
		}
	}
	if logged := l.logs.FilterMessage("Blocked Kubernetes API proxy response header").Len(); logged != 1000 {
		t.Errorf("%d lines", logged)
	}
}

func TestTools_GetAllButCookiesAndCORS(t *testing.T) {
	for _, bearer := range []string{ciBearer, patBearer} {
		l := newLine(t, answers(200))
		h := l.do("GET", "/version", "Authorization", bearer).Header
		for name, want := range map[string]string{
			"Location": "/-/profile", "Link": "</x>; rel=preload", "Www-Authenticate": "Basic", "X-Content-Type-Options": "none", "X-Extra": "extra",
			"Content-Security-Policy": "default-src *", "Set-Cookie": "", "Access-Control-Allow-Origin": "", "Gitlab-Unauthorized": "", "Clear-Site-Data": "",
		} {
			if h.Get(name) != want {
				t.Errorf("%s %s: %q, want %q", bearer, name, h.Get(name), want)
			}
		}
	}
}

func TestSession_UpgradeHeadersPass(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		if _, err := a.Body(true); err != nil {
			return err
		}
		if err := a.Respond(101, "Upgrade", "websocket", "Connection", "Upgrade", "Sec-WebSocket-Accept", "a", "Sec-WebSocket-Protocol", "v5.channel.k8s.io",
			"X-Stream-Protocol-Version", "v4.channel.k8s.io", "Set-Cookie", "evil"); err != nil {
			return err
		}
		return a.Trailer()
	})
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "GET /k8s-proxy/exec?gitlab-agent-id=7&gitlab-csrf-token=c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: _gitlab_kas=v\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Upgrade": "websocket", "Connection": "upgrade", "Sec-Websocket-Accept": "a", "Sec-Websocket-Protocol": "v5.channel.k8s.io",
		"X-Stream-Protocol-Version": "v4.channel.k8s.io", "Set-Cookie": "",
	}
	for name, value := range want {
		if resp.Header.Get(name) != value {
			t.Errorf("%s: %q, want %q", name, resp.Header.Get(name), value)
		}
	}
	if resp.StatusCode != 101 {
		t.Errorf("%v", resp)
	}
}

// Some versions of kubectl ask the wrong port of a cluster and need to be told so.
func TestProxy_426KeepsItsBody(t *testing.T) {
	for _, header := range [][]string{{"Authorization", ciBearer}, {"Authorization", patBearer}, session()} {
		l := newLine(t, func(a *agenttest.Agent) error {
			return a.Answer(426, "use a WebSocket", "Upgrade", "websocket", "Connection", "Upgrade", "Content-Type", "text/plain")
		})
		got := l.do("GET", "/openapi/v3", header...)
		if got.StatusCode != 426 || got.body != "use a WebSocket" || got.err != nil || got.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%v %q %v", got.Response, got.body, got.err)
		}
	}
}

func TestUser_AnswerIsCached(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	ask := func(header ...string) {
		if got := l.do("GET", "/version", header...); got.StatusCode != 200 {
			t.Fatalf("%v %q", got.Response, got.body)
		}
	}
	for range 2 {
		ask("Authorization", patBearer)
		ask("Authorization", "Bearer pat:7:other")
		ask(session()...)
		ask("Cookie", "_gitlab_kas=canary-cookie", "Gitlab-Agent-Id", "7", "X-Csrf-Token", "another")
		// A personal access token with the text of a cookie is another credential.
		ask("Authorization", "Bearer pat:7:canary-cookie")
	}
	if n := len(l.users.asked); n != 5 {
		t.Errorf("GitLab was asked %d times: %v", n, l.users.asked)
	}
	if got := l.users.asked[0]; got.GetAccessType() != "personal_access_token" || got.GetAccessKey() != "canary-pat" || got.GetCsrfToken() != "" {
		t.Errorf("asked %v", got)
	}
}

func TestUser_RefusalIsCachedForItsTime(t *testing.T) {
	var tick fakeClock
	l := newLine(t, nil, func(c *k8sproxy.Config) { c.Now = tick.Now })
	l.users.err = fault.New(fault.PermissionDenied, fault.GitLab, "no")
	for i, want := range []int{1, 1, 2} {
		if i == 2 {
			tick.pass(10 * time.Second)
		}
		l.do("GET", "/version", "Authorization", patBearer).wantStatus(t, 401, "Unauthorized", "Unauthorized")
		if n := len(l.users.asked); n != want {
			t.Errorf("step %d: GitLab was asked %d times", i, n)
		}
	}
}

func TestUser_AccessAs(t *testing.T) {
	agent := &gitlabapi.AccessAsProxyAuthorization{AccessAs: &gitlabapi.AccessAsProxyAuthorization_Agent{Agent: &gitlabapi.AccessAsAgentAuthorization{}}}
	user := &gitlabapi.AccessAsProxyAuthorization{AccessAs: &gitlabapi.AccessAsProxyAuthorization_User{User: &gitlabapi.AccessAsUserAuthorization{
		Projects: []*gitlabapi.ProjectAccessCF{{Id: 1, Roles: []string{"reporter", "developer"}}},
		Groups:   []*gitlabapi.GroupAccessCF{{Id: 2, Roles: []string{"owner"}}},
	}}}
	groups := []string{"gitlab:user", "gitlab:project_role:1:reporter", "gitlab:project_role:1:developer", "gitlab:group_role:2:owner"}
	for _, tt := range []struct {
		name   string
		as     *gitlabapi.AccessAsProxyAuthorization
		header []string
		user   string
		groups []string
		by     string
	}{
		{"agent", agent, []string{"Authorization", patBearer}, "", nil, ""},
		{"agent by cookie", agent, session(), "", nil, ""},
		{"user by token", user, []string{"Authorization", patBearer}, "gitlab:user:ci-user", groups, "personal_access_token"},
		{"user by cookie", user, session(), "gitlab:user:ci-user", groups, "session_cookie"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &seen{}
			l := newLine(t, s.record)
			l.users.as = tt.as
			if got := l.do("GET", "/version", tt.header...); got.StatusCode != 200 {
				t.Fatalf("%v %q", got.Response, got.body)
			}
			c := s.extra(t).GetImpConfig()
			if diff := cmp.Diff(tt.groups, c.GetGroups()); diff != "" || c.GetUsername() != tt.user || c.GetUid() != "" {
				t.Errorf("%v\n%s", c, diff)
			}
			var by string
			for _, e := range c.GetExtra() {
				if e.GetKey() == "agent.gitlab.com/access_type" {
					by = e.GetVal()[0]
				}
			}
			if by != tt.by {
				t.Errorf("access type %q", by)
			}
		})
	}
}

// A token valid for one agent reaches no other by path, header, query, cookie or metadata.
func TestConfusedDeputy(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	for _, bearer := range []string{ciBearer, patBearer} {
		got := l.do("GET", "/9/api?gitlab-agent-id=9&agent_id=9", "Authorization", bearer, "Gitlab-Agent-Id", "9", "Kas-Hop-Routing-Agent-Id", "9",
			"Cookie", "_gitlab_kas=v; gitlab-agent-id=9", "Host", "9.example.com")
		if got.StatusCode != 200 {
			t.Fatalf("%v %q", got.Response, got.body)
		}
	}
	if got := l.do("GET", "/version?gitlab-agent-id=9", session()...); got.StatusCode != 200 {
		t.Fatalf("%v %q", got.Response, got.body)
	}
	for _, r := range l.routed {
		if r.AgentID != 7 || strings.Contains(fmt.Sprint(r.Meta), "9.example") || len(r.Meta.Get("kas-hop-routing-agent-id")) > 0 {
			t.Errorf("routed %+v", r)
		}
	}
	// GitLab speaks of another agent than it was asked about.
	l.do("GET", "/version", "Authorization", "Bearer pat:9:canary-pat").wantStatus(t, 500, "InternalError", "Failed to authorize user session")
	l.do("GET", "/version", "Authorization", "Bearer ci:9:"+jobToken).wantStatus(t, 403, "Forbidden", "Forbidden: agentId is not allowed")
	if n := l.opened(); n != 3 {
		t.Errorf("%d requests reached an agent", n)
	}
}

type usage struct {
	mu   sync.Mutex
	seen []string
}

func (u *usage) ProxyRequest(kind string, userID, agentID, configProjectID int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, fmt.Sprintf("%s user %d agent %d project %d", kind, userID, agentID, configProjectID))
}

func TestProxy_UsageCountsAuthorizedRequests(t *testing.T) {
	u := &usage{}
	l := newLine(t, (&seen{}).record, func(c *k8sproxy.Config) { c.Usage = u })
	l.do("GET", "/version", "Authorization", ciBearer)
	l.do("GET", "/version", "Authorization", patBearer)
	l.do("GET", "/version", session()...)
	l.do("GET", "/version")
	l.do("OPTIONS", "/version")
	l.do("GET", "/version", "Authorization", "Bearer ci:9:"+jobToken)
	want := []string{"ci user 3 agent 7 project 31", "pat user 3 agent 7 project 31", "user user 3 agent 7 project 31"}
	u.mu.Lock()
	defer u.mu.Unlock()
	if diff := cmp.Diff(want, u.seen); diff != "" {
		t.Error(diff)
	}
}

func TestProxy_LogHoldsNoSessionSecret(t *testing.T) {
	l := newLine(t, answers(200))
	l.do("GET", "/version?gitlab-csrf-token=canary-query", session()...)
	l.do("GET", "/version", "Authorization", patBearer)
	l.users.fail(fault.New(fault.Unavailable, fault.GitLab, "down"))
	l.do("GET", "/version", "Cookie", "_gitlab_kas=canary-other", "Gitlab-Agent-Id", "7", "X-Csrf-Token", "canary-csrf")
	want(t, l, func() bool { return l.logs.FilterMessage("Kubernetes API request").Len() == 3 })
	if text := fmt.Sprint(l.logs.All()); strings.Contains(text, "canary") {
		t.Errorf("a secret in the log: %s", text)
	}
}

func TestNew_ExtraAllowedResponseHeaders(t *testing.T) {
	for _, name := range []string{"", "a b", "a:", "ä"} {
		_, err := k8sproxy.New(k8sproxy.Config{
			Log: zap.NewNop(), Registerer: prometheus.NewRegistry(), Opener: &line{}, Jobs: &jobs{}, ExtraAllowedResponseHeaders: []string{name},
		})
		if err == nil || !strings.Contains(err.Error(), "extra_allowed_response_headers") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// fakeClock is set by the test.
type fakeClock struct{ passed atomic.Int64 }

func (c *fakeClock) Now() time.Time       { return time.Unix(0, c.passed.Load()) }
func (c *fakeClock) pass(d time.Duration) { c.passed.Add(int64(d)) }
