package faults

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// lies are headers that claim an identity, an origin or a way to another agent.
var lies = []string{
	"X-Remote-User: admin", "x-remote-group: system:masters", "X-Remote-Extra-Scopes: all",
	"X-Forwarded-For: 10.0.0.1", "x-forwarded-client-cert: admin", "X-Forwarded-Proto: https",
	"Kas-Hop-Routing-Agent-Id: 8", "kas-hop-routing-agent-id: 8", "Gitlab-Agent-Id: 8", "X-Csrf-Token: token",
	"Cookie: _gitlab_kas=session", "Proxy-Authorization: Basic c2VjcmV0", "X-Listed: 1", "Te: trailers",
}

func TestHeaders_ClientCannotClaimAnythingAndMayKeepTheRest(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	seen := make(chan http.Header, 1)
	path := d.handle(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	for _, agent := range []string{"demo", "plain"} {
		c := dial(t, l, agent)
		c.ask(t, "GET", path, append([]string{"Connection: X-Listed, X-Remote-User", "X-Kept: yes", "User-Agent: kubectl"}, lies...)...)
		if response := c.response(t, "GET"); response.StatusCode != http.StatusOK {
			t.Fatalf("HTTP status %d", response.StatusCode)
		}
		got := await(t, "the request reaches the cluster", seen)
		var identity []string
		for name := range got {
			for _, prefix := range []string{"X-Remote-", "X-Forwarded-", "Kas-", "Gitlab-", "X-Csrf", "Cookie", "Proxy-", "X-Listed", "Te"} {
				if strings.HasPrefix(name, prefix) {
					t.Errorf("agent %s: the cluster got %s: %q", agent, name, got[name])
				}
			}
			if strings.HasPrefix(name, "Impersonate-") {
				identity = append(identity, name)
			}
		}
		if agent == "plain" && len(identity) > 0 {
			t.Errorf("the agent's own request has an identity: %v", identity)
		}
		if user := got.Get("Impersonate-User"); agent == "demo" && user != "gitlab:ci_job:9001" {
			t.Errorf("the job is %q in the cluster", user)
		}
		if !slices.Equal(got["Authorization"], []string{"Bearer " + d.token}) {
			t.Errorf("agent %s: the credential is not the agent's own, or not the only one", agent)
		}
		if got.Get("X-Kept") != "yes" || got.Get("User-Agent") != "kubectl" {
			t.Errorf("agent %s: harmless headers are lost: %v", agent, got)
		}
	}
}

func TestImpersonationByTheClient_PassesOnlyToAnAgentWithoutIdentity(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	seen := make(chan http.Header, 1)
	path := d.handle(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	c := dial(t, l, "plain")
	c.ask(t, "GET", path, "Impersonate-User: jane", "Impersonate-Group: a", "Impersonate-Group: b")
	if response := c.response(t, "GET"); response.StatusCode != http.StatusOK {
		t.Fatalf("HTTP status %d", response.StatusCode)
	}
	got := await(t, "the request reaches the cluster", seen)
	if got.Get("Impersonate-User") != "jane" || !slices.Equal(got["Impersonate-Group"], []string{"a", "b"}) {
		t.Errorf("header %v", got)
	}
}

// A name that is listed in Connection is removed on the way. If that were done to an identity, the request would be the agent's own.
func TestImpersonationByTheClient_CannotBeTakenAwayByConnection(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	path := d.handle(t, func(http.ResponseWriter, *http.Request) { t.Error("the request reached the cluster") })
	for _, agent := range []string{"demo", "plain"} {
		c := dial(t, l, agent)
		c.ask(t, "GET", path, "Connection: keep-alive, IMPERSONATE-user", "Impersonate-User: jane")
		if response := c.response(t, "GET"); response.StatusCode != http.StatusBadRequest {
			t.Errorf("agent %s: HTTP status %d, want 400", agent, response.StatusCode)
		}
	}
}

func TestAgentThatMayNotImpersonate_WorksByItsImpersonationAccount(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Name, c.Agents[0].Power = "token-only", line.TokenOnly })
	const name = "who-am-i-by-the-account"
	a := mustDo(t, l, "token-only", request{path: "/api/v1/namespaces/default/configmaps/" + name})
	if a.code != http.StatusNotFound {
		t.Fatalf("HTTP status %d: %s", a.code, a.body)
	}
	event, err := cluster.WaitAudit(soon(t), func(e kube.AuditEvent) bool { return e.ObjectRef.Name == name })
	if err != nil {
		t.Fatal(err)
	}
	if got := event.User.Username; got != "system:serviceaccount:gitlab-agent-token-only:gitlab-agent-impersonator" {
		t.Errorf("authenticated user %q, want the impersonation account", got)
	}
	if event.ImpersonatedUser == nil || event.ImpersonatedUser.Username != "gitlab:ci_job:9001" {
		t.Errorf("impersonated user %+v, want the job", event.ImpersonatedUser)
	}
}

func TestAgentThatMayNotImpersonate_FailsClosedWithoutTheAccount(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Name, c.Agents[0].Power = "powerless", line.None })
	a := mustDo(t, l, "powerless", request{path: "/api/v1/namespaces/default/configmaps/any"})
	var got struct{ Message, Reason string }
	decode(t, a.body, &got)
	if a.code != http.StatusForbidden || got.Reason != "Forbidden" || !strings.Contains(got.Message, "cannot impersonate") {
		t.Errorf("HTTP status %d, %+v; want the cluster's word that the agent's account may not impersonate", a.code, got)
	}
}

func TestImpersonationAccountWithoutToken_FailsClosedAndNamesTheAccount(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) {
		// The agent itself may impersonate, which must not help: the account it was told to use does not exist.
		c.Agents[0].Name = "accountless"
		c.Agents[0].Args = []string{"--impersonation-service-account", "gitlab-agent-accountless/missing"}
	})
	message := mustDo(t, l, "accountless", request{path: "/api/v1/namespaces/default/configmaps/any"}).refusal(t, http.StatusBadGateway, "")
	for _, want := range []string{"agent: no token of the impersonation account", "gitlab-agent-accountless/missing"} {
		if !strings.Contains(message, want) {
			t.Errorf("message %q does not say %q", message, want)
		}
	}
}

func TestPath_EncodedSlashKeepsItsMeaning(t *testing.T) {
	t.Parallel()
	d, l := useDouble(t), doubleLine(t)
	seen := make(chan string, 1)
	path := d.handle(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.RequestURI })
	for sent, want := range map[string]string{
		"/objects/a%2Fb":           "/objects/a%2Fb",
		"/objects/a%2Fb%2fc/scale": "/objects/a%2Fb%2fc/scale",
		"/objects/%2e%2e/up":       "/objects/%2e%2e/up",
		"/objects/a%20b%25":        "/objects/a%20b%25",
		"/objects/a/b?x=%2F&y=a+b": "/objects/a/b?x=%2F&y=a+b",
		"/objects/%C3%A9":          "/objects/%C3%A9",
	} {
		c := dial(t, l, "demo")
		c.ask(t, "GET", path+sent)
		if response := c.response(t, "GET"); response.StatusCode != http.StatusOK {
			t.Errorf("%s: HTTP status %d", sent, response.StatusCode)
			continue
		}
		if diff := cmp.Diff(path+want, await(t, "the request reaches the cluster", seen)); diff != "" {
			t.Errorf("request line for %s (-want +got):\n%s", sent, diff)
		}
	}
}

// The real API server sees the name of one object, with a slash, and not the path of another.
func TestPath_EncodedSlashAtTheRealAPIServer(t *testing.T) {
	t.Parallel()
	l := realLine(t)
	c := dial(t, l, "demo")
	c.ask(t, "GET", "/api/v1/namespaces/default/configmaps/encoded%2Fslash")
	c.response(t, "GET")
	event, err := cluster.WaitAudit(soon(t), func(e kube.AuditEvent) bool { return strings.Contains(e.RequestURI, "encoded%2Fslash") })
	if err != nil {
		t.Fatal(err)
	}
	if event.ResponseStatus.Code == http.StatusOK {
		t.Errorf("audit event %+v", event)
	}
}
