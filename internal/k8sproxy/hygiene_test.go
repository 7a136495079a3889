package k8sproxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

func TestProxy_WhatTheAgentGets(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	got := l.raw("POST http://evil.test/k8s-proxy/api/v1/pods?b=2&a=1&b=1&gitlab-csrf-token=canary HTTP/1.1\r\nHost: evil.test\r\n" +
		"Authorization: " + ciBearer + "\r\nCookie: a=canary\r\nX-Csrf-Token: canary\r\nGitlab-Agent-Id: 9\r\n" +
		"X-Remote-User: system:admin\r\nX-Remote-Group: system:masters\r\nx-remote-extra-a: b\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\n" +
		"X-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n" +
		"Kas-Hop-Routing-Agent-Id: 9\r\nConnection: x-private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: 1\r\nTe: trailers\r\nProxy-Authorization: canary\r\n" +
		"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.Y2FuYXJ5, v4.channel.k8s.io\r\n" +
		"Accept: application/json\r\nUser-Agent: kubectl\r\nVia: 1.1 lb\r\nContent-Length: 4\r\n\r\nbody")
	if got.StatusCode != 200 || got.body != "from the cluster" {
		t.Fatalf("%v %q", got.Response, got.body)
	}
	h := s.headers(t)
	via := h["Via"]
	delete(h, "Via")
	delete(h, "Content-Length")
	if diff := cmp.Diff(http.Header{
		"Accept": {"application/json"}, "User-Agent": {"kubectl"}, "Sec-Websocket-Protocol": {"v4.channel.k8s.io"},
	}, h); diff != "" {
		t.Error(diff)
	}
	if len(via) != 2 || via[0] != "1.1 lb" || !strings.HasPrefix(via[1], "gRPC/1.0 gitlab-kas/") {
		t.Errorf("Via %q", via)
	}
	request := s.get(t).GetRequest()
	query := httpgrpc.ValuesFromKeyValues(request.GetQuery())
	if request.GetMethod() != "POST" || request.GetUrlPath() != "/api/v1/pods" || query.Encode() != "a=1&b=2&b=1" || s.body != "body" || *s.get(t).ContentLength != 4 {
		t.Errorf("%v %q", request, s.body)
	}
	if s.get(t).Extra != nil {
		t.Error("an extra for a request without identity")
	}
	r := l.routed[0]
	if r.AgentID != 7 || r.Service != "gitlab.agent.kubernetes_api.rpc.KubernetesApi" || r.Method != "MakeRequest" || r.Require != nil {
		t.Errorf("routed %+v", r)
	}
	if len(r.Meta) != 2 || len(r.Meta["traceparent"]) != 1 || len(r.Meta["user-agent"]) != 1 || strings.Contains(fmt.Sprint(r.Meta), "canary") {
		t.Errorf("meta %v", r.Meta)
	}
}

// CVE-2021-31999, CVE-2026-61682: the ways to smuggle an identity.
func TestProxy_CVE_2021_31999_Impersonation(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	// access_as: agent passes them by design.
	got := l.do("GET", "/version", "Authorization", ciBearer, "Impersonate-User", "x", "Impersonate-Extra-A%2fb", "y")
	if got.StatusCode != 200 || s.headers(t).Get("Impersonate-User") != "x" {
		t.Errorf("%v %v", got.Response, s.headers(t))
	}
	// Their removal by Connection would leave the agent's own power.
	l.do("GET", "/version", "Authorization", ciBearer, "Impersonate-User", "x", "Connection", "Impersonate-User").
		wantStatus(t, 400, "BadRequest", "Bad request: nested impersonation is not supported: ...")
	// Trailers are not forwarded.
	l.jobs.set(grants(ciJob()))
	got = l.raw("POST /k8s-proxy/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ci:7:other\r\nTransfer-Encoding: chunked\r\nTrailer: Impersonate-User\r\n\r\n" +
		"1\r\na\r\n0\r\nImpersonate-User: system:admin\r\n\r\n")
	if h := s.headers(t); got.StatusCode != 200 || h.Get("Impersonate-User") != "" || h.Get("Trailer") != "" {
		t.Errorf("%v %v", got.Response, h)
	}
	if s.extra(t).GetImpConfig().GetUsername() != "gitlab:ci_job:9001" {
		t.Error("no identity")
	}
}

func TestProxy_EncodedPath(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	if got := l.do("GET", "/api/a%2Fb", "Authorization", ciBearer); got.StatusCode != 200 {
		t.Fatalf("%v %q", got.Response, got.body)
	}
	if diff := cmp.Diff([]string{httpgrpc.ExtEncodedPath}, l.routed[0].Require); diff != "" || s.extra(t).GetEscapedPath() != "/api/a%2Fb" || s.extra(t).GetImpConfig() != nil {
		t.Error(diff, s.extra(t))
	}
	l.mu.Lock()
	l.refuse = fault.New(fault.InvalidArgument, fault.Agent, "agent does not support it")
	l.mu.Unlock()
	l.do("GET", "/api/%2e%2e/b", "Authorization", ciBearer).wantStatus(t, 400, "BadRequest", "Bad request: the path has an encoded slash...")
}

func TestProxy_RouteErrors(t *testing.T) {
	tests := []struct {
		err             error
		code            int
		reason, message string
		retryAfter      string
	}{
		{fault.New(fault.Unavailable, fault.Agent, "Find tunnel failed"), 502, "", "HTTP->gRPC: failed to read gRPC response: rpc error: code = Unavailable desc = Find tunnel failed", ""},
		{fault.New(fault.Internal, fault.Kas, "a bug"), 500, "InternalError", "Proxy failed to make outbound request: a bug", ""},
		{&fault.Error{Kind: fault.ResourceExhausted, Hop: fault.Agent, Msg: "busy", RetryAfter: 3 * time.Second}, 429, "TooManyRequests", "Too many requests: busy", "3"},
		{fault.New(fault.ResourceExhausted, fault.Agent, "busy"), 429, "TooManyRequests", "Too many requests: busy", "1"},
		{status.Error(codes.InvalidArgument, "odd"), 502, "", "HTTP->gRPC: failed to read gRPC response: rpc error: code = InvalidArgument desc = odd", ""},
	}
	for _, tt := range tests {
		l := newLine(t, nil)
		l.refuse = tt.err
		got := l.do("GET", "/version", "Authorization", ciBearer)
		got.wantStatus(t, tt.code, tt.reason, tt.message)
		if got.Header.Get("Retry-After") != tt.retryAfter {
			t.Errorf("Retry-After %q", got.Header.Get("Retry-After"))
		}
	}
}

func TestProxy_AgentErrors(t *testing.T) {
	const read = "HTTP->gRPC: failed to read gRPC response: rpc error: "
	tests := []struct {
		play            func(a *agenttest.Agent) error
		code            int
		reason, message string
	}{
		{func(*agenttest.Agent) error {
			return status.Error(codes.Unavailable, "gRPC -> HTTP: dial tcp: refused")
		}, 502, "", read + "code = Unavailable desc = gRPC -> HTTP: dial tcp: refused"},
		{func(*agenttest.Agent) error { return status.Error(codes.Canceled, "context canceled") }, 502, "", read + "code = Canceled desc = context canceled"},
		{func(*agenttest.Agent) error {
			return status.Error(codes.Unavailable, "gRPC -> HTTP: nested impersonation is not supported - agent is already configured")
		}, 400, "BadRequest", "Bad request: " + read + "..."},
		{func(a *agenttest.Agent) error { return a.Trailer() }, 502, "", read + "code = InvalidArgument desc = the agent broke the protocol..."},
	}
	for _, tt := range tests {
		for _, upgrade := range []bool{false, true} {
			l := newLine(t, tt.play)
			header := []string{"Authorization", ciBearer}
			if upgrade {
				header = append(header, "Connection", "Upgrade", "Upgrade", "websocket")
			}
			l.do("GET", "/exec", header...).wantStatus(t, tt.code, tt.reason, tt.message)
			if l.calls[0].Finished() {
				t.Error("the call ended as if in order")
			}
		}
	}
}

func TestProxy_AbortsIncompleteAnswer(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		if err := a.Respond(200); err != nil {
			return err
		}
		return a.Data("half")
	})
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "GET /k8s-proxy/version HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err == nil { // or nothing was sent yet
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q looks complete", body)
		}
	}
	want(t, l, func() bool { return l.logs.FilterMessage("Kubernetes API request").Len() == 1 })
	fields := l.logs.FilterMessage("Kubernetes API request").All()[0].ContextMap()
	if fields["hop"] != "agent" || fields["status_code"] != int64(200) || fields["response_bytes"] != int64(4) {
		t.Errorf("logged %v", fields)
	}
}

// want waits for what the client cannot see.
func want(t *testing.T, l *line, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("does not happen; logs: %v", l.logs.All())
		}
	}
}

func TestProxy_InvalidAuthorizationAnswer(t *testing.T) {
	unknown := allowed(nil)
	unknown.AllowedAgents = append(unknown.AllowedAgents, &gitlabapi.AllowedAgent{
		Id: 8, ConfigProject: &gitlabapi.ConfigProject{Id: 1}, Configuration: &gitlabapi.Configuration{AccessAs: &agentcfg.CiAccessAsCF{}},
	})
	noUser, noTier, noProject := allowed(nil), allowed(nil), allowed(nil)
	noUser.User.Username, noTier.Environment.Tier, noProject.AllowedAgents[0].ConfigProject = "", "", nil
	for name, a := range map[string]*gitlabapi.AllowedAgentsForJob{
		"mode unknown, of another agent": unknown, "no user name": noUser, "no tier": noTier, "no config project": noProject, "empty": {}, "nil": nil,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t, nil)
			l.jobs.set(func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) { return a, nil })
			l.do("GET", "/version", "Authorization", ciBearer).
				wantStatus(t, 500, "InternalError", "Failed to get allowed agents for CI job token: ValidateAll: ...")
		})
	}
	l := newLine(t, nil)
	l.jobs.set(grants(&agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_Impersonate{Impersonate: &agentcfg.CiAccessAsImpersonateCF{Username: "a\nb"}}}))
	l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, 500, "InternalError", "Failed to construct impersonation config: ...")
}

func TestProxy_NoUsers(t *testing.T) {
	l := newLine(t, nil, func(c *k8sproxy.Config) { c.Users = nil })
	l.do("GET", "/version", "Authorization", "Bearer pat:7:tok").wantStatus(t, 401, "Unauthorized", "Unauthorized")
}

func TestProxy_OneLogLine(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record, func(c *k8sproxy.Config) { c.ShowTraceID = true })
	const id = "0af7651916cd43dd8448eb211c80319c"
	l.do("GET", "/api?token=canary-query", "Authorization", ciBearer, "Traceparent", "00-"+id+"-b7ad6b7169203331-01")
	refused := l.do("GET", "/api", "Authorization", "Bearer ci:"+jobToken+":7", "Traceparent", "00-"+id+"-b7ad6b7169203331-01")
	if !strings.Contains(refused.body, ". Trace ID: "+id) {
		t.Errorf("%q", refused.body)
	}
	want(t, l, func() bool { return l.logs.FilterMessage("Kubernetes API request").Len() == 2 })
	lines := l.logs.FilterMessage("Kubernetes API request").All()
	first := lines[0].ContextMap()
	for k, v := range map[string]any{
		"access": "ci", "agent_id": int64(7), "username": "ci-user", "ci_job_id": int64(9001), "ci_project_id": int64(42), "verb": "GET", "url_path": "/api",
		"status_code": int64(200), "response_bytes": int64(16), "request_bytes": int64(0), "trace_id": id,
	} {
		if first[k] != v {
			t.Errorf("%s: %v, want %v", k, first[k], v)
		}
	}
	if _, ok := first["error"]; ok {
		t.Errorf("logged %v", first)
	}
	if second := lines[1].ContextMap(); second["access"] != "none" || second["status_code"] != int64(401) || second["hop"] != "client" {
		t.Errorf("logged %v", second)
	}
	if text := fmt.Sprint(l.logs.All()); strings.Contains(text, "canary") {
		t.Errorf("a secret in the log: %s", text)
	}
	if err := testutil.GatherAndCompare(l.reg, strings.NewReader(`
# HELP kas_proxy_requests_total Requests of Kubernetes clients by kind of credential and HTTP code (499: the client left before its answer)
# TYPE kas_proxy_requests_total counter
kas_proxy_requests_total{access="ci",code="200"} 1
kas_proxy_requests_total{access="none",code="401"} 1
`), "kas_proxy_requests_total"); err != nil {
		t.Error(err)
	}
}

func TestProxy_SurvivesPanic(t *testing.T) {
	l := newLine(t, nil)
	l.jobs.set(func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) { panic("bug") })
	l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, 500, "InternalError", "Internal error")
	l.do("GET", "/version").wantStatus(t, 401, "Unauthorized", "Unauthorized: no valid credentials provided")
	if l.logs.FilterMessage("Request handler panicked").Len() != 1 {
		t.Error("not logged")
	}
}

func TestProxy_ManyAndHugeHeaders(t *testing.T) {
	s := &seen{}
	l := newLine(t, s.record)
	var many strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, "X-%d: %d\r\n", i, i)
	}
	if got := l.raw("GET /k8s-proxy/ HTTP/1.1\r\nHost: x\r\nAuthorization: " + ciBearer + "\r\n" + many.String() + "\r\n"); got.StatusCode != 200 {
		t.Fatalf("%v", got.Response)
	}
	if n := len(s.get(t).GetRequest().GetHeader()); n != 10_001 {
		t.Errorf("the agent got %d headers", n)
	}
	conn, r := l.dial()
	go func() {
		_, _ = io.WriteString(conn, "GET /k8s-proxy/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ci:7:"+strings.Repeat(".", 8<<20)+"\r\n\r\n")
	}()
	if resp, err := http.ReadResponse(r, nil); err == nil && resp.StatusCode != 431 {
		t.Errorf("%v", resp)
	}
}

// CVE-2021-33197, CVE-2022-2880, CVE-2025-22871: what two parsers could read differently is refused.
func TestProxy_AmbiguousRequests(t *testing.T) {
	l := newLine(t, (&seen{}).record)
	const head = "Host: x\r\nAuthorization: " + ciBearer + "\r\n"
	for name, text := range map[string]string{
		"semicolon query": "GET /k8s-proxy/a?a=1;b=2 HTTP/1.1\r\n" + head + "\r\n",
		"bare LF chunk":   "POST /k8s-proxy/a HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
		"two lengths":     "POST /k8s-proxy/a HTTP/1.1\r\n" + head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
		"odd encoding":    "POST /k8s-proxy/a HTTP/1.1\r\n" + head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"space in name":   "GET /k8s-proxy/a HTTP/1.1\r\n" + head + "Impersonate-User : x\r\n\r\n",
		"NUL in value":    "GET /k8s-proxy/a HTTP/1.1\r\n" + head + "X: a\x00b\r\n\r\n",
	} {
		if got := l.raw(text); got.StatusCode < 400 {
			t.Errorf("%s: %v", name, got.Response)
		}
	}
}
