package k8sproxy_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
	"gitlab.com/agentk/agentk/internal/route"
)

// readFailed is how every 502 begins that comes from the agent's side.
const readFailed = "HTTP->gRPC: failed to read gRPC response: rpc error: "

func TestOutcome_WrongOrigin(t *testing.T) {
	got := newLine(t, nil).do("GET", "/version", "Origin", "https://evil.test", "Authorization", ciBearer)
	if got.StatusCode != 403 || got.body != "" || got.Header.Get("Gitlab-Unauthorized") != "" {
		t.Errorf("%v %q", got.Response, got.body)
	}
}

func TestOutcome_WrongPathPrefix(t *testing.T) {
	l := newLine(t, nil)
	l.url = strings.TrimSuffix(l.url, "/k8s-proxy")
	l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, 400, "BadRequest", "Bad request: URL does not start with expected prefix")
}

// Each row of the credential grammar, as a client sees its refusal.
func TestOutcome_MalformedCredentials(t *testing.T) {
	const (
		auth    = "Authorization header: "
		oneID   = `exactly one agent id must be provided either in the "Gitlab-Agent-Id" header or "gitlab-agent-id" query parameter`
		oneCSRF = `exactly one CSRF token must be provided either in the "X-Csrf-Token" header or "gitlab-csrf-token" query parameter`
		cookie  = "_gitlab_kas=v"
	)
	for _, tt := range []struct {
		name, query, detail string
		header              []string
	}{
		{"nothing usable", "", "no valid credentials provided", nil},
		{"two Authorization headers", "", auth + "expecting a single header, got 2", []string{"Authorization", ciBearer, "Authorization", ciBearer}},
		{"not Bearer", "", auth + "expecting Bearer token", []string{"Authorization", "Basic YTpi"}},
		{"no colon", "", auth + "invalid value", []string{"Authorization", "Bearer ci"}},
		{"no second colon", "", auth + "invalid value", []string{"Authorization", "Bearer ci:7"}},
		{"unknown type", "", auth + "unknown token type", []string{"Authorization", "Bearer zz:1"}},
		{"id empty", "", auth + `failed to parse: strconv.ParseInt: parsing "": invalid syntax`, []string{"Authorization", "Bearer ci::t"}},
		{"id no number", "", auth + `failed to parse: strconv.ParseInt: parsing "x": invalid syntax`, []string{"Authorization", "Bearer ci:x:t"}},
		{
			"id out of range", "", auth + `failed to parse: strconv.ParseInt: parsing "9223372036854775808": value out of range`,
			[]string{"Authorization", "Bearer ci:9223372036854775808:t"},
		},
		{"third field empty", "", auth + "empty token", []string{"Authorization", "Bearer pat:7:"}},
		{"cookie empty", "", "_gitlab_kas cookie value must not be empty", []string{"Cookie", "_gitlab_kas="}},
		{"cookie undecodable", "", "_gitlab_kas invalid cookie value", []string{"Cookie", "_gitlab_kas=%zz"}},
		{"agent id missing", "", oneID, []string{"Cookie", cookie}},
		{"agent id query repeated", "?gitlab-agent-id=7&gitlab-agent-id=7", oneID, []string{"Cookie", cookie}},
		{"agent id header repeated", "", "Gitlab-Agent-Id header must have exactly one value", []string{"Cookie", cookie, "Gitlab-Agent-Id", "7", "Gitlab-Agent-Id", "7"}},
		{"agent id not int64", "", `agent id in request: invalid value: "x"`, []string{"Cookie", cookie, "Gitlab-Agent-Id", "x"}},
		{"CSRF missing", "", oneCSRF, []string{"Cookie", cookie, "Gitlab-Agent-Id", "7"}},
		{"CSRF query repeated", "?gitlab-csrf-token=a&gitlab-csrf-token=b", oneCSRF, []string{"Cookie", cookie, "Gitlab-Agent-Id", "7"}},
		{"CSRF header repeated", "", "X-Csrf-Token header must have exactly one value", []string{"Cookie", cookie, "Gitlab-Agent-Id", "7", "X-Csrf-Token", "a", "X-Csrf-Token", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLine(t, nil)
			l.do("GET", "/version"+tt.query, tt.header...).wantStatus(t, 401, "Unauthorized", "Unauthorized: "+tt.detail)
			if l.jobs.count()+len(l.users.asked)+l.opened() > 0 {
				t.Error("somebody was asked")
			}
		})
	}
}

func TestOutcome_SeveralCookiesFirstIsUsed(t *testing.T) {
	l := newLine(t, (&seen{}).record)
	got := l.do("GET", "/version", "Cookie", "_gitlab_kas=first; _gitlab_kas=second", "Gitlab-Agent-Id", "7", "X-Csrf-Token", "")
	if got.StatusCode != 200 || l.users.asked[0].GetAccessKey() != "first" || l.users.asked[0].GetCsrfToken() != "" {
		t.Errorf("%v %v", got.Response, l.users.asked)
	}
}

// ciOutcome checks an answer of GitLab about a job token, and whether it is asked again.
func ciOutcome(t *testing.T, err error, code int, reason, message string, cached bool) {
	t.Helper()
	l := newLine(t, nil)
	l.jobs.set(fails(err))
	want := 2
	if cached {
		want = 1
	}
	for range 2 {
		l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, code, reason, message)
	}
	if n := l.jobs.count(); n != want {
		t.Errorf("GitLab was asked %d times, want %d", n, want)
	}
}

const allowedAgentsError = "HTTP status code: %s for path /api/v4/job/allowed_agents"

func glErr(code string) string { return strings.Replace(allowedAgentsError, "%s", code, 1) }

func TestOutcome_CI_GitLab401(t *testing.T) {
	ciOutcome(t, refusedBy(fault.Unauthenticated, 401), 401, "Unauthorized", "Unauthorized: CI job token: "+glErr("401"), true)
}

func TestOutcome_CI_GitLab403(t *testing.T) {
	ciOutcome(t, refusedBy(fault.PermissionDenied, 403), 403, "Forbidden", "Forbidden: CI job token: "+glErr("403"), true)
}

func TestOutcome_CI_GitLab404(t *testing.T) {
	ciOutcome(t, refusedBy(fault.NotFound, 404), 404, "NotFound", "Not found: agents for CI job token: "+glErr("404"), true)
}

func TestOutcome_CI_GitLabFails(t *testing.T) {
	for _, err := range []error{
		refusedBy(fault.Unavailable, 500), refusedBy(fault.Unavailable, 503), refusedBy(fault.ResourceExhausted, 429), refusedBy(fault.InvalidArgument, 400),
		fault.New(fault.Unavailable, fault.GitLab, "dial tcp: connection refused"), fault.New(fault.DeadlineExceeded, fault.GitLab, "timeout awaiting response headers"),
		fault.New(fault.Internal, fault.GitLab, "the answer is not JSON"), errors.New("anything"),
	} {
		ciOutcome(t, err, 500, "InternalError", "Failed to get allowed agents for CI job token: "+err.Error(), false)
	}
}

func TestOutcome_CI_AnswerFailsValidation(t *testing.T) {
	l := newLine(t, nil)
	l.jobs.set(func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) {
		return &gitlabapi.AllowedAgentsForJob{}, nil
	})
	for range 2 {
		l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, 500, "InternalError", "Failed to get allowed agents for CI job token: ValidateAll: ...")
	}
	if n := l.jobs.count(); n != 2 {
		t.Errorf("GitLab was asked %d times", n)
	}
}

func TestOutcome_CI_AgentNotListed(t *testing.T) {
	l := newLine(t, (&seen{}).record)
	for range 2 {
		l.do("GET", "/version", "Authorization", "Bearer ci:8:"+jobToken).wantStatus(t, 403, "Forbidden", "Forbidden: agentId is not allowed")
	}
	// The list is cached for all agents of the job.
	if got := l.do("GET", "/version", "Authorization", ciBearer); got.StatusCode != 200 || l.jobs.count() != 1 {
		t.Errorf("%v; GitLab was asked %d times", got.Response, l.jobs.count())
	}
}

// One entry without a mode that kas knows fails every agent of the job.
func TestOutcome_CI_UnknownAccessAs(t *testing.T) {
	l := newLine(t, nil)
	l.jobs.set(func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) {
		a := allowed(nil)
		a.AllowedAgents = append(a.AllowedAgents, &gitlabapi.AllowedAgent{
			Id: 8, ConfigProject: &gitlabapi.ConfigProject{Id: 1}, Configuration: &gitlabapi.Configuration{AccessAs: &agentcfg.CiAccessAsCF{}},
		})
		return a, nil
	})
	for _, bearer := range []string{ciBearer, "Bearer ci:8:" + jobToken} {
		l.do("GET", "/version", "Authorization", bearer).wantStatus(t, 500, "InternalError", "Failed to get allowed agents for CI job token: ValidateAll: ...")
	}
	if n := l.jobs.count(); n != 2 {
		t.Errorf("GitLab was asked %d times", n)
	}
}

func TestOutcome_CI_IdentityCannotBeBuilt(t *testing.T) {
	l := newLine(t, nil)
	l.jobs.set(grants(&agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_Impersonate{Impersonate: &agentcfg.CiAccessAsImpersonateCF{Username: "a\nb"}}}))
	l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, 500, "InternalError", "Failed to construct impersonation config: ...")
}

// userOutcome checks an answer of GitLab about a user, for both credentials.
func userOutcome(t *testing.T, err error, code int, reason, message string, cached bool) {
	t.Helper()
	for _, header := range [][]string{{"Authorization", patBearer}, session()} {
		l := newLine(t, nil)
		l.users.fail(err)
		want := 2
		if cached {
			want = 1
		}
		for range 2 {
			l.do("GET", "/version", header...).wantStatus(t, code, reason, message)
		}
		if n := len(l.users.asked); n != want {
			t.Errorf("GitLab was asked %d times, want %d", n, want)
		}
	}
}

func TestOutcome_User_GitLab401_403_404(t *testing.T) {
	for _, kind := range []fault.Kind{fault.Unauthenticated, fault.PermissionDenied, fault.NotFound} {
		userOutcome(t, fault.New(kind, fault.GitLab, "HTTP status code: 403 for path /x with reason a secret"), 401, "Unauthorized", "Unauthorized", true)
	}
}

func TestOutcome_User_GitLabFails(t *testing.T) {
	for _, kind := range []fault.Kind{fault.InvalidArgument, fault.Unavailable, fault.ResourceExhausted, fault.Internal, fault.DeadlineExceeded} {
		userOutcome(t, fault.New(kind, fault.GitLab, "a secret reason"), 500, "InternalError", "Failed to authorize user session", false)
	}
}

func TestOutcome_User_UnknownAccessAs(t *testing.T) {
	l := newLine(t, nil)
	l.users.as = &gitlabapi.AccessAsProxyAuthorization{}
	l.do("GET", "/version", "Authorization", patBearer).wantStatus(t, 500, "InternalError", "Failed to authorize user session")
}

func TestOutcome_User_IdentityCannotBeBuilt(t *testing.T) {
	l := newLine(t, nil)
	l.users.name = "mi\nra"
	l.do("GET", "/version", "Authorization", patBearer).wantStatus(t, 500, "InternalError", "Failed to construct user impersonation config: ...")
}

// routeOutcome checks a request for which no call could be opened.
func routeOutcome(t *testing.T, err error, code int, reason, message string) {
	t.Helper()
	l := newLine(t, nil)
	l.refuse = err
	for range 2 {
		l.do("GET", "/version", "Authorization", ciBearer).wantStatus(t, code, reason, message)
	}
	if n := l.opened(); n != 2 {
		t.Errorf("%d attempts", n)
	}
}

func TestOutcome_StreamCouldNotBeOpened(t *testing.T) {
	routeOutcome(t, fault.New(fault.Internal, fault.Kas, "a bug"), 500, "InternalError", "Proxy failed to make outbound request: a bug")
}

func TestOutcome_AgentNotConnected(t *testing.T) {
	routeOutcome(t, offline(), 502, "", readFailed+"code = DeadlineExceeded desc = Agent connection not found. Is agent up to date and connected?")
}

func TestOutcome_FindTunnelFailed(t *testing.T) {
	routeOutcome(t, fault.New(fault.Unavailable, fault.Agent, "Find tunnel failed"), 502, "", readFailed+"code = Unavailable desc = Find tunnel failed")
}

// callOutcome checks a call that ends with err, without and with an upgrade.
func callOutcome(t *testing.T, err error, code int, reason, message string) {
	t.Helper()
	for _, more := range [][]string{nil, {"Connection", "Upgrade", "Upgrade", "websocket"}} {
		l := newLine(t, func(*agenttest.Agent) error { return err })
		l.do("GET", "/exec", append([]string{"Authorization", ciBearer}, more...)...).wantStatus(t, code, reason, message)
	}
}

func TestOutcome_AgentCannotReachAPIServer(t *testing.T) {
	callOutcome(t, status.Error(codes.Unavailable, "gRPC -> HTTP: dial tcp: refused"), 502, "", readFailed+"code = Unavailable desc = gRPC -> HTTP: dial tcp: refused")
}

func TestOutcome_NestedImpersonationAtAgent(t *testing.T) {
	callOutcome(t, status.Error(codes.Unavailable, "gRPC -> HTTP: nested impersonation is not supported - agent is already configured"), 400, "BadRequest",
		"Bad request: "+readFailed+"code = Unavailable desc = gRPC -> HTTP: nested impersonation is not supported - agent is already configured")
}

func TestOutcome_AgentLost(t *testing.T) {
	callOutcome(t, status.Error(codes.Canceled, "context canceled"), 502, "", readFailed+"code = Canceled desc = context canceled")
}

func TestOutcome_AgentFailsWhileCopying(t *testing.T) {
	err := status.Error(codes.Canceled, "gRPC -> HTTP: failed to read response body: unexpected EOF")
	callOutcome(t, err, 502, "", readFailed+"code = Canceled desc = gRPC -> HTTP: failed to read response body: unexpected EOF")
	// With the header out, the connection is aborted.
	l := newLine(t, func(a *agenttest.Agent) error {
		if err := a.Respond(200, "Content-Length", "10"); err != nil {
			return err
		}
		return err
	})
	conn, r := l.dial()
	_, _ = conn.Write([]byte("GET /k8s-proxy/version HTTP/1.1\r\nHost: x\r\nAuthorization: " + ciBearer + "\r\n\r\n"))
	if resp, err := http.ReadResponse(r, nil); err == nil {
		if n, err := resp.Body.Read(make([]byte, 10)); err == nil || n > 0 {
			t.Errorf("%v: %d bytes, %v", resp, n, err)
		}
	}
}

func TestOutcome_RequestBodyReadFailure(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		<-a.Ctx.Done()
		return a.Ctx.Err()
	})
	got := l.raw("POST /k8s-proxy/api HTTP/1.1\r\nHost: x\r\nAuthorization: " + ciBearer + "\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
	got.wantStatus(t, 502, "", "HTTP->gRPC: failed to read request body: ...")
}

// brokenCall is a call whose stream breaks at one member of the request: 0 is the half-close.
type brokenCall struct {
	*agenttest.Call
	at protowire.Number
}

func errBroken() error { return status.Error(codes.Unavailable, "transport is closing") }

func (c *brokenCall) Send(msg mem.BufferSlice) error {
	member, _, _ := protowire.ConsumeTag(msg.Materialize())
	if member != c.at {
		return c.Call.Send(msg)
	}
	msg.Free()
	c.Call.Abort()
	return errBroken()
}

func (c *brokenCall) CloseSend() error {
	if c.at == 0 {
		c.Call.Abort()
		return errBroken()
	}
	return c.Call.CloseSend()
}

func (c *brokenCall) Recv() (mem.BufferSlice, error) {
	msg, err := c.Call.Recv()
	if err != nil {
		err = errBroken()
	}
	return msg, err
}

type brokenOpener struct {
	t  *testing.T
	at protowire.Number
}

func (o brokenOpener) Open(ctx context.Context, _ route.Request) (route.Call, error) {
	call := agenttest.Start(o.t, ctx, func(a *agenttest.Agent) error {
		<-a.Ctx.Done()
		return a.Ctx.Err()
	})
	return &brokenCall{Call: call, at: o.at}, nil
}

func TestOutcome_StreamBreaksWhileSending(t *testing.T) {
	for stage, at := range map[string]protowire.Number{
		httpgrpc.StageSendHeader: agenttest.Header, httpgrpc.StageSendData: agenttest.Data, httpgrpc.StageSendTrailer: agenttest.Trailer, httpgrpc.StageSendClose: 0,
	} {
		t.Run(stage, func(t *testing.T) {
			l := newLine(t, nil, func(c *k8sproxy.Config) { c.Opener = brokenOpener{t: t, at: at} })
			l.doBody("POST", "/api", strings.NewReader("body"), "Authorization", ciBearer).
				wantStatus(t, 502, "", "HTTP->gRPC: "+stage+": rpc error: code = Unavailable desc = transport is closing")
		})
	}
}

func TestOutcome_ConnectionCannotBeTakenOver(t *testing.T) {
	l := &line{t: t}
	p, err := k8sproxy.New(k8sproxy.Config{Log: zap.NewNop(), Registerer: prometheus.NewRegistry(), Opener: l, Jobs: &jobs{}})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/exec", nil)
	r.Header = http.Header{"Authorization": {ciBearer}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	answer{Response: w.Result(), body: w.Body.String()}.wantStatus(t, 500, "InternalError", "HTTP->gRPC: unable to upgrade connection: ...")
	if l.opened() != 0 {
		t.Error("an agent was asked")
	}
}

func TestOutcome_FailureAfterHeader(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		if err := a.Respond(200); err != nil {
			return err
		}
		if err := a.Data("half"); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "lost")
	})
	conn, r := l.dial()
	_, _ = conn.Write([]byte("GET /k8s-proxy/version HTTP/1.1\r\nHost: x\r\nAuthorization: " + ciBearer + "\r\n\r\n"))
	if resp, err := http.ReadResponse(r, nil); err == nil {
		body := make([]byte, 5)
		n, err := resp.Body.Read(body)
		for err == nil {
			var more int
			more, err = resp.Body.Read(body)
			n += more
		}
		if err.Error() == "EOF" || n > 4 {
			t.Errorf("%d bytes, %v: looks complete", n, err)
		}
	}
}

func TestOutcome_ClusterErrorsPassUntouched(t *testing.T) {
	const body = `{"kind":"Status","code":403,"message":"pods is forbidden"}`
	for _, code := range []int32{400, 401, 403, 404, 409, 422, 429, 500, 503} {
		l := newLine(t, func(a *agenttest.Agent) error {
			return a.Answer(code, body, "Content-Type", "application/json", "Retry-After", "1")
		})
		for _, header := range [][]string{{"Authorization", ciBearer}, {"Authorization", patBearer}, session()} {
			got := l.do("GET", "/api/v1/pods", header...)
			if got.StatusCode != int(code) || got.body != body || got.Header.Get("Gitlab-Unauthorized") != "" || got.Header.Get("Retry-After") != "1" {
				t.Errorf("%d: %v %q", code, got.Response, got.body)
			}
		}
	}
}
