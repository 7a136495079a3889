package faults

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/test/line"
)

// TestCredentials_EveryMalformedOneHasItsLabel goes through the ways to get a credential wrong.
func TestCredentials_EveryMalformedOneHasItsLabel(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	const header = "Authorization header: "
	session := func(more ...string) []string { return append([]string{"Cookie: _gitlab_kas=x"}, more...) }
	const (
		oneAgent = `exactly one agent id must be provided either in the "Gitlab-Agent-Id" header or "gitlab-agent-id" query parameter`
		oneCSRF  = `exactly one CSRF token must be provided either in the "X-Csrf-Token" header or "gitlab-csrf-token" query parameter`
	)
	for _, c := range []struct {
		lines []string
		query string
		want  string
	}{
		{lines: nil, want: "no valid credentials provided"},
		{lines: []string{"Authorization: Bearer a", "Authorization: Bearer b"}, want: header + "expecting a single header, got 2"},
		{lines: []string{"Authorization: Basic abc"}, want: header + "expecting Bearer token"},
		{lines: []string{"Authorization: bearer ci:7:t"}, want: header + "expecting Bearer token"},
		{lines: []string{"Authorization: Bearer abc"}, want: header + "invalid value"},
		{lines: []string{"Authorization: Bearer ci:7"}, want: header + "invalid value"},
		{lines: []string{"Authorization: Bearer zz:1"}, want: header + "unknown token type"},
		{lines: []string{"Authorization: Bearer ci::t"}, want: header + `failed to parse: strconv.ParseInt: parsing "": invalid syntax`},
		{
			lines: []string{"Authorization: Bearer ci:9223372036854775808:t"},
			want:  header + `failed to parse: strconv.ParseInt: parsing "9223372036854775808": value out of range`,
		},
		{lines: []string{"Authorization: Bearer ci:7:"}, want: header + "empty token"},
		{lines: []string{"Cookie: _gitlab_kas="}, want: "_gitlab_kas cookie value must not be empty"},
		{lines: []string{"Cookie: _gitlab_kas=%zz"}, want: "_gitlab_kas invalid cookie value"},
		{lines: session(), want: oneAgent},
		{lines: session(), query: "?gitlab-agent-id=7&gitlab-agent-id=7", want: oneAgent},
		{lines: session("Gitlab-Agent-Id: 7", "Gitlab-Agent-Id: 7"), want: "Gitlab-Agent-Id header must have exactly one value"},
		{lines: session("Gitlab-Agent-Id: x"), want: `agent id in request: invalid value: "x"`},
		{lines: session("Gitlab-Agent-Id: 7"), want: oneCSRF},
		{lines: session("Gitlab-Agent-Id: 7", "X-Csrf-Token: a", "X-Csrf-Token: b"), want: "X-Csrf-Token header must have exactly one value"},
	} {
		conn := dial(t, l, "demo")
		head := append([]string{"GET /k8s-proxy/version" + c.query + " HTTP/1.1", "Host: " + conn.host, "Connection: close"}, c.lines...)
		conn.write(t, strings.Join(head, "\r\n")+"\r\n\r\n")
		if got := readAnswer(t, conn).refusal(t, http.StatusUnauthorized, "Unauthorized"); got != "Unauthorized: "+c.want {
			t.Errorf("%q: message %q, want %q", c.lines, got, c.want)
		}
	}
}

// readAnswer reads the next answer on a connection with its body.
func readAnswer(t *testing.T, c *raw) answer {
	t.Helper()
	response := c.response(t, http.MethodGet)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(body)}
}

func TestOutcome_ForeignOrigin_403WithoutABody(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{path: "/version", header: http.Header{"Origin": {"https://evil.test"}}})
	if a.code != http.StatusForbidden || a.body != "" {
		t.Errorf("HTTP status %d with %q", a.code, a.body)
	}
}

func TestOutcome_UnknownJobToken_401(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{path: "/version", header: authorization("Bearer ci:7:unknown")})
	want := "Unauthorized: CI job token: HTTP status code: 401 for path /api/v4/job/allowed_agents"
	if got := a.refusal(t, http.StatusUnauthorized, metav1.StatusReasonUnauthorized); got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestOutcome_PersonalAccessTokenWithoutGitLab_401WithoutACause(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{path: "/version", header: authorization("Bearer pat:7:token")})
	if got := a.refusal(t, http.StatusUnauthorized, metav1.StatusReasonUnauthorized); got != "Unauthorized" {
		t.Errorf("message %q", got)
	}
}

func TestOutcome_APIServerUnreachable_502NamesIt(t *testing.T) {
	t.Parallel()
	got := mustDo(t, doubleLine(t), "refused", request{path: "/version"}).refusal(t, http.StatusBadGateway, "")
	const want = "HTTP->gRPC: failed to read gRPC response: rpc error: code = Unavailable desc = gRPC -> HTTP: Kubernetes API server: "
	if !strings.HasPrefix(got, want) || !strings.Contains(got, "connection refused") {
		t.Errorf("message %q, want %q and why", got, want)
	}
}

func TestOutcome_APIServerClosesWithoutAnAnswer_502NamesIt(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	path := d.handle(t, func(w http.ResponseWriter, _ *http.Request) {
		if conn, err := take(w); err == nil {
			conn.Close()
		}
	})
	// A request with a body is not tried again by anybody.
	got := mustDo(t, l, "demo", request{method: http.MethodPost, path: path, body: "x"}).refusal(t, http.StatusBadGateway, "")
	if !strings.Contains(got, "code = Unavailable desc = gRPC -> HTTP: Kubernetes API server: ") {
		t.Errorf("message %q does not name the API server", got)
	}
}

func TestOutcome_ClusterDiesDuringItsAnswer_AnswerNeverLooksComplete(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	const half = "the first half"
	for what, end := range map[string]func(*tap) error{"closes": (*tap).Close, "dies": (*tap).reset} {
		read := make(chan struct{})
		path := d.handle(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, half)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-read: // a reset may destroy what is still on its way
			case <-r.Context().Done():
			}
			_ = end(r.Context().Value(tapKey{}).(*tap))
		})
		response, err := send(soon(t), l, "demo", request{path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.ReadFull(response.Body, make([]byte, len(half))); err != nil {
			t.Fatal(err)
		}
		close(read)
		if rest, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cluster %s: the client got %q, %v; want %v", what, rest, err, io.ErrUnexpectedEOF)
		}
	}
}

func TestOutcome_ClientDiesDuringItsBody_ClusterSeesTheEnd(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	arrived, ended := make(chan struct{}), make(chan error, 1)
	path := d.handle(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	c := dial(t, l, "demo")
	c.ask(t, http.MethodPost, path, "Content-Length: 100")
	c.write(t, "the first bytes of a hundred")
	await(t, "the request reaches the cluster", arrived)
	if err := reset(c.Conn); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the cluster sees the end of the request", ended); err == nil {
		t.Error("the body that was cut looked complete to the cluster")
	}
}

func TestOutcome_ClusterRefuses_AnswerIsUntouched(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	for _, code := range []int{400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504} {
		const body = `{"kind":"Status","reason":"of the cluster"}`
		path := d.handle(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		})
		a := mustDo(t, l, "demo", request{path: path})
		if a.code != code || a.body != body || a.header.Get("Retry-After") != "7" || a.header.Get("Gitlab-Unauthorized") != "" {
			t.Errorf("HTTP status %d, body %q, header %v; want the cluster's %d", a.code, a.body, a.header, code)
		}
	}
}

func TestOutcome_AgentAtItsMaximum_429WithRetryAfter(t *testing.T) {
	t.Parallel()
	d := useDouble(t)
	const most = 2
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Args = append(d.args(), "--tunnel-max-streams", strconv.Itoa(most)) })
	path, arrived, _ := d.hold(t)
	ctx, leave := context.WithCancel(soon(t))
	defer leave()
	var held sync.WaitGroup
	for range most {
		held.Go(func() { _, _ = do(ctx, l, "demo", request{path: path}) })
	}
	for range most {
		await(t, "the request reaches the cluster", arrived)
	}
	a := mustDo(t, l, "demo", request{path: path})
	a.refusal(t, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)
	if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || seconds < 1 {
		t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
	}
	page, err := l.KasMetrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := expectSample(page, "kas_tunnel_saturated_total", 1, 1); err != nil {
		t.Error(err)
	}
	leave()
	held.Wait()
	expectIdle(t, l, "demo")
}
