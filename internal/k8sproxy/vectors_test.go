package k8sproxy_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
)

const stockOffline = "HTTP->gRPC: failed to read gRPC response: rpc error: code = DeadlineExceeded desc = Agent connection not found. Is agent up to date and connected?"

func TestVector01_NoCredentials(t *testing.T) {
	l := newLine(t, nil)
	l.do("GET", "/version").wantStatus(t, 401, "Unauthorized", "Unauthorized: no valid credentials provided")
}

func TestVector02_WrongPrefix(t *testing.T) {
	l := newLine(t, nil)
	l.url = strings.TrimSuffix(l.url, "/k8s-proxy")
	for _, path := range []string{"/other", "/k8s-proxy", "/k8s-proxyx/api", "/k8s%2Dproxy/api", "//k8s-proxy/api"} {
		l.do("GET", path, "Authorization", ciBearer).wantStatus(t, 400, "BadRequest", "Bad request: URL does not start with expected prefix")
	}
	if l.jobs.count() != 0 {
		t.Error("GitLab was asked")
	}
}

func TestVector03_Preflight(t *testing.T) {
	l := newLine(t, nil)
	got := l.do("OPTIONS", "/api", "Origin", origin, "Access-Control-Request-Headers", "authorization, x-csrf-token")
	want := map[string]string{
		"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Vary": "Origin",
		"Access-Control-Allow-Headers": "authorization, x-csrf-token", "Access-Control-Max-Age": "86400",
		"Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH",
	}
	for name, value := range want {
		if got.Header.Get(name) != value {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), value)
		}
	}
	if got.StatusCode != 200 || got.body != "" || !strings.HasPrefix(got.Header.Get("Server"), "gitlab-kas/") {
		t.Errorf("%v %q", got.Response, got.body)
	}
	plain := l.do("OPTIONS", "/api")
	if plain.StatusCode != 200 || plain.Header.Get("Access-Control-Allow-Origin") != "" || plain.Header.Get("Access-Control-Max-Age") != "86400" {
		t.Errorf("without Origin: %v", plain.Response)
	}
}

func TestVector04_OtherOrigin(t *testing.T) {
	l := newLine(t, nil)
	for _, other := range []string{origin + "/", "https://GL.test", "null", "", "https://evil.test"} {
		for _, method := range []string{"OPTIONS", "GET"} {
			got := l.do(method, "/api", "Origin", other, "Authorization", ciBearer)
			if got.StatusCode != 403 || got.body != "" || got.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s from %q: %v %q", method, other, got.Response, got.body)
			}
		}
	}
	if got := l.do("GET", "/api", "Origin", origin, "Origin", origin); got.StatusCode != 403 {
		t.Errorf("two origins: %d", got.StatusCode)
	}
}

func TestVector05_AgentIDNotANumber(t *testing.T) {
	newLine(t, nil).do("GET", "/version", "Authorization", "Bearer ci:x:tok").wantStatus(t, 401, "Unauthorized",
		`Unauthorized: Authorization header: failed to parse: strconv.ParseInt: parsing "x": invalid syntax`)
}

func TestVector06_EmptyToken(t *testing.T) {
	newLine(t, nil).do("GET", "/version", "Authorization", "Bearer ci:7:").wantStatus(t, 401, "Unauthorized",
		"Unauthorized: Authorization header: empty token")
}

func TestVector07_TokenWithColons(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	if got := l.do("GET", "/version", "Authorization", "Bearer ci:7:a:b:c"); got.StatusCode != 200 {
		t.Fatalf("%v %q", got.Response, got.body)
	}
	if diff := cmp.Diff([]string{"a:b:c"}, l.jobs.tokens); diff != "" {
		t.Error(diff)
	}
}

func TestVector08_TwoAuthorizationHeaders(t *testing.T) {
	l := newLine(t, nil)
	l.do("GET", "/version", "Authorization", ciBearer, "Authorization", ciBearer, "Cookie", "_gitlab_kas=ok", "Gitlab-Agent-Id", "7", "X-Csrf-Token", "x").
		wantStatus(t, 401, "Unauthorized", "Unauthorized: Authorization header: expecting a single header, got 2")
	if len(l.users.asked) > 0 {
		t.Error("the cookie was used")
	}
}

func TestVector09_AnswerIsCached(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	for range 2 {
		if got := l.do("GET", "/version", "Authorization", ciBearer); got.StatusCode != 200 {
			t.Fatalf("%v %q", got.Response, got.body)
		}
	}
	if n := l.jobs.count(); n != 1 {
		t.Errorf("GitLab was asked %d times", n)
	}
}

func TestVector10_RefusalIsCached(t *testing.T) {
	for code, want := range map[int]struct {
		kind            fault.Kind
		reason, message string
	}{
		401: {fault.Unauthenticated, "Unauthorized", "Unauthorized: CI job token: "},
		403: {fault.PermissionDenied, "Forbidden", "Forbidden: CI job token: "},
		404: {fault.NotFound, "NotFound", "Not found: agents for CI job token: "},
	} {
		l := newLine(t, nil)
		cause := refusedBy(want.kind, code)
		l.jobs.set(fails(cause))
		for range 2 {
			l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, code, want.reason, want.message+cause.Error())
		}
		if n := l.jobs.count(); n != 1 {
			t.Errorf("%d: GitLab was asked %d times", code, n)
		}
	}
}

func TestVector11_FailureIsNotCached(t *testing.T) {
	l := newLine(t, nil)
	cause := refusedBy(fault.Unavailable, 503)
	l.jobs.set(fails(cause))
	for range 2 {
		l.do("GET", "/version", "Authorization", ciBearer).
			wantStatus(t, 500, "InternalError", "Failed to get allowed agents for CI job token: "+cause.Error())
	}
	if n := l.jobs.count(); n != 2 {
		t.Errorf("GitLab was asked %d times", n)
	}
}

func TestVector12_AgentNotListed(t *testing.T) {
	l := newLine(t, nil)
	l.do("GET", "/version", "Authorization", "Bearer ci:8:tok").wantStatus(t, 403, "Forbidden", "Forbidden: agentId is not allowed")
	if l.opened() != 0 {
		t.Error("an agent was asked")
	}
}

func TestVector13_UserRefused(t *testing.T) {
	l := newLine(t, nil)
	for _, kind := range []fault.Kind{fault.Unauthenticated, fault.PermissionDenied, fault.NotFound} {
		l.users.err = fault.New(kind, fault.GitLab, "a reason that tells which agents exist")
		l.do("GET", "/version", "Authorization", "Bearer pat:7:tok"+kind.String()).wantStatus(t, 401, "Unauthorized", "Unauthorized")
	}
}

func TestVector14_UserCheckFails(t *testing.T) {
	l := newLine(t, nil)
	l.users.err = fault.New(fault.InvalidArgument, fault.GitLab, "secret reason")
	l.do("GET", "/version", "Authorization", "Bearer pat:7:tok").wantStatus(t, 500, "InternalError", "Failed to authorize user session")
}

func TestVector15_Cookie(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	got := l.do("GET", "/version?gitlab-agent-id=9&gitlab-csrf-token=q&x=y", "Cookie", "a=b; _gitlab_kas=v%2B1+2", "Gitlab-Agent-Id", "7", "X-Csrf-Token", "csrf")
	if got.StatusCode != 200 {
		t.Fatalf("%v %q", got.Response, got.body)
	}
	asked := l.users.asked[0]
	if asked.GetAgentId() != 7 || asked.GetAccessKey() != "v+1 2" || asked.GetCsrfToken() != "csrf" || asked.GetAccessType() != "session_cookie" {
		t.Errorf("asked %v", asked)
	}
	if l.routed[0].AgentID != 7 {
		t.Errorf("went to agent %d", l.routed[0].AgentID)
	}
	h := s.headers(t)
	for _, name := range []string{"Cookie", "Gitlab-Agent-Id", "X-Csrf-Token", "Authorization"} {
		if h.Get(name) != "" {
			t.Errorf("the cluster sees %s", name)
		}
	}
	query := s.get(t).GetRequest().GetQuery()
	if len(query) != 1 || string(query[0].GetKey()) != "x" {
		t.Errorf("the cluster sees the query %v", query)
	}
	if user := s.extra(t).GetImpConfig().GetUsername(); user != "gitlab:user:ci-user" {
		t.Errorf("identity %q", user)
	}
}

func TestVector16_AgentOffline(t *testing.T) {
	l := newLine(t, nil)
	l.refuse = offline()
	l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, 502, "", stockOffline)
}

func TestVector17_ClusterAnswers401(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error { return a.Answer(401, "{}", "Gitlab-Unauthorized", "true") })
	got := l.do("GET", "/version", "Authorization", ciBearer)
	if got.StatusCode != 401 || got.body != "{}" || got.Header.Get("Gitlab-Unauthorized") != "" {
		t.Errorf("%v %q", got.Response, got.body)
	}
}

func TestVector18_CIJobIdentity(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	l.jobs.set(grants(ciJob()))
	if got := l.do("GET", "/version", "Authorization", ciBearer); got.StatusCode != 200 {
		t.Fatalf("%v %q", got.Response, got.body)
	}
	c := s.extra(t).GetImpConfig()
	want := []string{
		"gitlab:ci_job", "gitlab:group:5", "gitlab:group_env_tier:5:production", "gitlab:group:2", "gitlab:group_env_tier:2:production",
		"gitlab:project:42", "gitlab:project_env:42:prod", "gitlab:project_env_tier:42:production",
	}
	if diff := cmp.Diff(want, c.GetGroups()); diff != "" || c.GetUsername() != "gitlab:ci_job:9001" {
		t.Error(c.GetUsername(), diff)
	}
}

func TestVector19_NestedImpersonation(t *testing.T) {
	const message = "Bad request: nested impersonation is not supported: ..."
	l := newLine(t, nil)
	l.jobs.set(grants(ciJob()))
	for _, name := range []string{"Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-Scopes", "impersonate-user", "IMPERSONATE-EXTRA-a%2fb"} {
		l.do("GET", "/version", "Authorization", ciBearer, name, "x").wantStatus(t, 400, "BadRequest", message)
		l.do("POST", "/exec", "Authorization", ciBearer, name, "x", "Upgrade", "SPDY/3.1", "Connection", "Upgrade").wantStatus(t, 400, "BadRequest", message)
	}
	l.do("GET", "/version", "Authorization", ciBearer, "Impersonate-User", "x", "Connection", "close, impersonate-user").wantStatus(t, 400, "BadRequest", message)
	if l.opened() != 0 {
		t.Error("an agent was asked")
	}
}

func TestVector20_Watch(t *testing.T) {
	next := make(chan string)
	l := newLine(t, func(a *agenttest.Agent) error {
		if _, _, err := a.Whole(); err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		for event := range next {
			if err := a.Data(event); err != nil {
				return err
			}
		}
		return a.Trailer()
	})
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "GET /k8s-proxy/api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"one", "two", "three"} {
		next <- event
		got := make([]byte, len(event))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != event {
			t.Fatalf("%q, %v", got, err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestVector21_Upgrade(t *testing.T) {
	l := newLine(t, upgradable)
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "POST /k8s-proxy/exec HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\nAuthorization: "+ciBearer+"\r\n\r\nping")
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "SPDY/3.1" || resp.Header.Get("Connection") != "upgrade" {
		t.Fatalf("%v, %v", resp, err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "ping" {
		t.Fatalf("%q, %v", got, err)
	}
	_ = conn.Close()
	l.calls[0].Finished()
}

func TestVector22_UpgradeRefused(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		if _, err := a.Body(true); err != nil {
			return err
		}
		if err := a.Answer(400, "no"); err != nil {
			return err
		}
		if _, _, err := a.Recv(); !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	})
	conn, r := l.dial()
	for range 2 {
		_, _ = io.WriteString(conn, "GET /k8s-proxy/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: "+ciBearer+"\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); resp.StatusCode != 400 || string(body) != "no" || err != nil {
			t.Fatalf("%v %q %v", resp, body, err)
		}
	}
	for _, call := range l.calls {
		if !call.Finished() {
			t.Error("the call did not end in order")
		}
	}
}

func TestVector23_UpgradeWithoutBody(t *testing.T) {
	lengths := make(chan int64, 1)
	l := newLine(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		lengths <- *h.ContentLength
		if member, _, err := a.Recv(); member != agenttest.Trailer {
			t.Errorf("member %d, %v after the header", member, err)
		}
		return a.Answer(400, "")
	})
	l.raw("POST /k8s-proxy/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\nAuthorization: " + ciBearer + "\r\n\r\n")
	if n := <-lengths; n != 0 {
		t.Errorf("content_length %d", n)
	}
}

func TestVector24_ResponseHeaders(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		return a.Answer(200, "ok", "Access-Control-Allow-Origin", "*", "Access-Control-Max-Age", "1", "Vary", "Accept", "Access-Control-Expose-Headers", "X",
			"Set-Cookie", "_gitlab_session=evil", "Clear-Site-Data", "*", "Alt-Svc", "h3", "Server", "cluster", "Via", "2.0 gitlab-agent/v16", "Connection", "close, X-Hop", "X-Hop", "1",
			"Transfer-Encoding", "chunked", "Content-Type", "text/html")
	})
	got := l.do("GET", "/version", "Authorization", ciBearer, "Origin", origin)
	h := got.Header
	if diff := cmp.Diff([]string{"Origin", "Accept"}, h["Vary"]); diff != "" {
		t.Error(diff)
	}
	if via := h["Via"]; len(via) != 2 || via[0] != "2.0 gitlab-agent/v16" || !strings.HasPrefix(via[1], "gRPC/1.0 gitlab-kas/") {
		t.Errorf("Via %q", via)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "X", "Server": "cluster", "Content-Type": "text/html",
		"Access-Control-Max-Age": "", "Set-Cookie": "", "Clear-Site-Data": "", "Alt-Svc": "", "X-Hop": "",
	} {
		if h.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, h.Get(name), want)
		}
	}
	if plain := l.do("GET", "/version", "Authorization", ciBearer); len(plain.Header["Vary"]) != 1 {
		t.Errorf("without Origin: Vary %q", plain.Header["Vary"])
	}
}

func TestVector25_ClientClosesDuringWatch(t *testing.T) {
	watching, gone := make(chan struct{}), make(chan struct{})
	l := newLine(t, func(a *agenttest.Agent) error {
		if err := a.Respond(200); err != nil {
			return err
		}
		close(watching)
		<-a.Ctx.Done()
		close(gone)
		return a.Ctx.Err()
	})
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "GET /k8s-proxy/api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\n\r\n")
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	<-watching
	_ = conn.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the agent's request goes on")
	}
	if l.calls[0].Finished() {
		t.Error("the call ended as if in order")
	}
}
