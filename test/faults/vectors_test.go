package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/route"
	"gitlab.com/agentk/agentk/internal/tunnel"
	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

func authorization(values ...string) http.Header { return http.Header{"Authorization": values} }

func TestVector1_NoCredentials(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	c := dial(t, l, "demo")
	c.write(t, "GET /k8s-proxy/version HTTP/1.1\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n")
	response := c.response(t, "GET")
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	message := answer{response.StatusCode, response.Header, string(body)}.refusal(t, http.StatusUnauthorized, "Unauthorized")
	if message != "Unauthorized: no valid credentials provided" {
		t.Errorf("message %q", message)
	}
}

func TestVector2_WrongPrefix(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	c := dial(t, l, "demo")
	c.write(t, "GET /other HTTP/1.1\r\nHost: "+c.host+"\r\nAuthorization: Bearer "+c.token+"\r\nConnection: close\r\n\r\n")
	response := c.response(t, "GET")
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	message := answer{response.StatusCode, response.Header, string(body)}.refusal(t, http.StatusBadRequest, "BadRequest")
	if !strings.HasPrefix(message, "Bad request: ") {
		t.Errorf("message %q", message)
	}
}

func TestVector3_Preflight(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{method: http.MethodOptions, path: "/api", header: http.Header{"Origin": {"https://gl.test"}}})
	if a.code != http.StatusOK || a.header.Get("Access-Control-Allow-Origin") != "https://gl.test" || a.header.Get("Access-Control-Max-Age") != "86400" {
		t.Errorf("HTTP status %d, header %v", a.code, a.header)
	}
}

func TestVector4_OriginWithASlash(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{method: http.MethodOptions, path: "/api", header: http.Header{"Origin": {"https://gl.test/"}}})
	if a.code != http.StatusForbidden || a.body != "" {
		t.Errorf("HTTP status %d with body %q, want 403 and no body", a.code, a.body)
	}
}

func TestVector5_AgentIDIsNoNumber(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{path: "/version", header: authorization("Bearer ci:x:tok")})
	a.refusal(t, http.StatusUnauthorized, "Unauthorized")
}

func TestVector6_EmptyToken(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "demo", request{path: "/version", header: authorization("Bearer ci:7:")})
	if got := a.refusal(t, http.StatusUnauthorized, "Unauthorized"); got != "Unauthorized: Authorization header: empty token" {
		t.Errorf("message %q", got)
	}
}

func TestVector8_TwoAuthorizationHeadersAndACookie(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	bearer, err := l.Bearer(jobID, "demo")
	if err != nil {
		t.Fatal(err)
	}
	header := authorization("Bearer "+bearer, "Bearer "+bearer)
	header.Set("Cookie", "_gitlab_kas=session")
	header.Set("Gitlab-Agent-Id", "7")
	header.Set("X-Csrf-Token", "token")
	a := mustDo(t, l, "demo", request{path: "/version", header: header})
	if got := a.refusal(t, http.StatusUnauthorized, "Unauthorized"); got != "Unauthorized: Authorization header: expecting a single header, got 2" {
		t.Errorf("message %q", got)
	}
}

func TestVector12_AgentThatTheJobMayNotUse(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	job, err := l.Bearer(jobID, "demo")
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(strings.TrimPrefix(job, "ci:"), ":")
	strange, err := l.Bearer(strangeID, "demo")
	if err != nil {
		t.Fatal(err)
	}
	for what, bearer := range map[string]string{
		"another agent":    "ci:8:" + token,
		"no agent at all":  "ci:123456:" + token,
		"a strange job":    strange,
		"the largest id":   "ci:9223372036854775807:" + token,
		"an id with zeros": "ci:0008:" + token,
	} {
		a := mustDo(t, l, "demo", request{path: "/version", header: authorization("Bearer " + bearer)})
		if got := a.refusal(t, http.StatusForbidden, "Forbidden"); got != "Forbidden: agentId is not allowed" {
			t.Errorf("%s: message %q", what, got)
		}
	}
}

func TestVector16_AgentOffline_WaitsForItsReturn(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Manual = true })
	done := inBackground(t, l, "demo", request{path: "/version"})
	if err := l.StartAgent(soon(t), "demo"); err != nil {
		t.Fatal(err)
	}
	if r := await(t, "the waiting request is answered", done); r.err != nil || r.code != http.StatusOK {
		t.Errorf("answer: %d %s, %v", r.code, r.body, r.err)
	}
}

func TestVector16_AgentOffline_WaitEndsAfterTwentySeconds(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Manual = true })
	started := time.Now()
	expectNotConnected(t, l)
	if took := time.Since(started); took < 20*time.Second {
		t.Errorf("a kas that is younger than a minute waited for %s only, want 20s", took)
	}
}

// A kas that has run for a minute cannot be had in a test of seconds, so that this one is about the router alone.
func TestVector16_AgentLongGone_AnsweredAtOnceWithWhenItWasSeen(t *testing.T) {
	t.Parallel()
	seen := time.Now().Add(-time.Hour)
	registry := prometheus.NewRegistry()
	router := route.New(route.Config{
		Registry: tunnel.NewRegistry(tunnel.RegistryConfig{Registerer: registry}), Registerer: registry,
		Started:  time.Now().Add(-2 * time.Minute),
		LastSeen: func(context.Context, int64) (time.Time, bool, error) { return seen, true, nil },
	})
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // less than what it waits when it waits
	defer cancel()
	_, err := router.Open(ctx, route.Request{AgentID: agentID, Service: "s", Method: "m"})
	if fault.KindOf(err) != fault.DeadlineExceeded || ctx.Err() != nil {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{notConnected, "last seen at " + seen.UTC().Format(time.RFC3339), "1h0m"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestVector17_ClusterSays401(t *testing.T) {
	t.Parallel()
	a := mustDo(t, realLine(t), "locked", request{path: "/api/v1/namespaces/default/configmaps"})
	if a.code != http.StatusUnauthorized || a.header.Get("Gitlab-Unauthorized") != "" {
		t.Errorf("HTTP status %d, Gitlab-Unauthorized %q; want 401 without it", a.code, a.header.Get("Gitlab-Unauthorized"))
	}
	if !strings.Contains(a.body, `"message":"Unauthorized"`) {
		t.Errorf("body %q is not the cluster's own", a.body)
	}
}

func TestVector18_IdentityOfTheJobInOrder(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	const name = "who-am-i-for-vector-18"
	if a := mustDo(t, l, "demo", request{path: "/api/v1/namespaces/default/configmaps/" + name}); a.code != http.StatusNotFound {
		t.Fatalf("HTTP status %d: %s", a.code, a.body)
	}
	event, err := cluster.WaitAudit(soon(t), func(e kube.AuditEvent) bool { return e.ObjectRef.Name == name })
	if err != nil {
		t.Fatal(err)
	}
	want := &kube.AuditUser{
		Username: "gitlab:ci_job:9001",
		Groups: []string{
			"gitlab:ci_job", "gitlab:group:5", "gitlab:group_env_tier:5:production", "gitlab:group:2", "gitlab:group_env_tier:2:production",
			"gitlab:project:42", "gitlab:project_env:42:prod", "gitlab:project_env_tier:42:production", "system:authenticated",
		},
		Extra: map[string][]string{
			"agent.gitlab.com/id": {"7"}, "agent.gitlab.com/config_project_id": {"43"},
			"agent.gitlab.com/project_id": {"42"}, "agent.gitlab.com/ci_pipeline_id": {"801"}, "agent.gitlab.com/ci_job_id": {"9001"},
			"agent.gitlab.com/username": {"ci-user"}, "agent.gitlab.com/environment_slug": {"prod"},
			"agent.gitlab.com/environment_tier": {"production"},
		},
	}
	if diff := cmp.Diff(want, event.ImpersonatedUser); diff != "" {
		t.Errorf("impersonated user (-want +got):\n%s", diff)
	}
	if got := event.User.Username; got != "system:serviceaccount:gitlab-agent-demo:gitlab-agent" {
		t.Errorf("authenticated user %q, want the agent's account", got)
	}
}

func TestVector19_ImpersonationByTheClientToo(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	path := d.handle(t, func(http.ResponseWriter, *http.Request) { t.Error("the request reached the cluster") })
	for what, lines := range map[string][]string{
		"plain":       {"Impersonate-User: x"},
		"lower case":  {"impersonate-group: system:masters"},
		"mixed case":  {"iMPERSONATE-eXTRA-a%2Fb: x"},
		"uid":         {"Impersonate-Uid: 1"},
		"upgrade":     append([]string{"Impersonate-User: x"}, upgradeLines...),
		"listed":      {"Connection: Impersonate-User", "Impersonate-User: x"},
		"only listed": {"Connection: keep-alive, impersonate-user"},
	} {
		c := dial(t, l, "demo")
		c.ask(t, "GET", path, lines...)
		response := c.response(t, "GET")
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		message := answer{response.StatusCode, response.Header, string(body)}.refusal(t, http.StatusBadRequest, "BadRequest")
		if !strings.Contains(message, "nested impersonation is not supported") {
			t.Errorf("%s: message %q", what, message)
		}
	}
}

func TestVector20_WatchIsNotBuffered(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	response, err := send(soon(t), l, "demo", request{path: configMaps + "&labelSelector=vector%3D20"})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	events := json.NewDecoder(bufio.NewReader(response.Body))
	for i := range 4 {
		name := fmt.Sprintf("vector-20-%d", i)
		manifest := "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + ", labels: {vector: '20'}}}"
		if err := cluster.Apply(soon(t), manifest); err != nil {
			t.Fatal(err)
		}
		// The next one is made when this one has arrived: whoever holds one back holds up everything.
		var event struct {
			Type   string
			Object struct{ Metadata struct{ Name string } }
		}
		if err := events.Decode(&event); err != nil {
			t.Fatal(err)
		}
		if event.Type != "ADDED" || event.Object.Metadata.Name != name {
			t.Errorf("event %+v, want that %s was added", event, name)
		}
	}
}

func TestVector21_UpgradeToSPDY(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	s := openSession(t, d, l, "Connection: Upgrade", "Upgrade: SPDY/3.1")
	head, _, _ := strings.Cut(s.cluster.text(), "\r\n\r\n")
	if lines := headerLines(head, "Connection"); len(lines) != 1 || !strings.EqualFold(lines[0], "upgrade") {
		t.Errorf("Connection towards the cluster is %q, want upgrade", lines)
	}
	if lines := headerLines(head, "Upgrade"); !slices.Equal(lines, []string{"SPDY/3.1"}) {
		t.Errorf("Upgrade towards the cluster is %q", lines)
	}
	for range 3 {
		s.both(t)
	}
}

func TestVector22_UpgradeRefused(t *testing.T) {
	t.Parallel()
	upgradeRefused(t, useDouble(t), doubleLine(t))
}

func TestVector23_UpgradeWithoutABody(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	s := openSession(t, d, l, "Connection: Upgrade", "Upgrade: SPDY/3.1")
	head, rest, _ := strings.Cut(s.cluster.text(), "\r\n\r\n")
	if rest != "ping" {
		t.Errorf("after the header the cluster got %q, want nothing but the bytes of the session", rest)
	}
	if lines := headerLines(head, "Transfer-Encoding"); len(lines) != 0 {
		t.Errorf("Transfer-Encoding towards the cluster is %q", lines)
	}
}

func TestVector24_HeadersOfTheCluster(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	path := d.handle(t, func(w http.ResponseWriter, _ *http.Request) {
		for name, value := range map[string]string{
			"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "false", "Access-Control-Expose-Headers": "X-Kept",
			"Vary": "Accept", "X-Kept": "yes", "Set-Cookie": "stolen=1", "Gitlab-Unauthorized": "true", "Server": "cluster",
			"Warning": `299 - "deprecated"`,
		} {
			w.Header().Set(name, value)
		}
	})
	a := mustDo(t, l, "demo", request{path: path, header: http.Header{"Origin": {"https://gl.test"}}})
	want := http.Header{
		"Access-Control-Allow-Origin": {"https://gl.test"}, "Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Expose-Headers": {"X-Kept"}, "Vary": {"Origin", "Accept"}, "X-Kept": {"yes"}, "Server": {"cluster"},
		"Warning": {`299 - "deprecated"`},
	}
	for _, name := range []string{"Date", "Via", "Content-Length", "Connection"} {
		a.header.Del(name)
	}
	if diff := cmp.Diff(want, a.header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestVector25_ClientClosesDuringAWatch(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	path := configMaps + "&labelSelector=vector%3D25"
	ctx, leave := context.WithCancel(soon(t))
	defer leave()
	response, err := send(ctx, l, "demo", request{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	noted := func(stage string) func(kube.AuditEvent) bool {
		return func(e kube.AuditEvent) bool { return strings.Contains(e.RequestURI, "vector%3D25") && e.Stage == stage }
	}
	if _, err := cluster.WaitAudit(soon(t), noted("ResponseStarted")); err != nil {
		t.Fatal(err)
	}
	leave()
	if _, err := cluster.WaitAudit(soon(t), noted("ResponseComplete")); err != nil {
		t.Errorf("the watch goes on at the API server: %v", err)
	}
}

// headerLines returns the values of a header as they were written.
func headerLines(head, name string) []string {
	var values []string
	for text := range strings.SplitSeq(head, "\r\n") {
		if key, value, ok := strings.Cut(text, ":"); ok && strings.EqualFold(key, name) {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}
