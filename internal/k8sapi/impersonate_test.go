package k8sapi

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zaptest"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

// identityOf answers with all headers that could make somebody of the request.
func identityOf(w http.ResponseWriter, r *http.Request) {
	var lines []string
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Impersonate") || strings.HasPrefix(name, "X-Remote") || name == "Authorization" {
			lines = append(lines, name+": "+strings.Join(values, ","))
		}
	}
	sort.Strings(lines)
	fmt.Fprint(w, strings.Join(lines, "\n"))
}

// Every combination of the three sources: the agent's own configuration, kas, the client.
func TestClient_ImpersonationSources(t *testing.T) {
	const agent = "Authorization: Bearer agent-token\n"
	self := rest.ImpersonationConfig{UserName: "self", Groups: []string{"sg"}}
	kas := &kubernetesapi.ImpersonationConfig{Username: "kas", Groups: []string{"kg"}}
	for _, tc := range []struct {
		name   string
		self   rest.ImpersonationConfig
		kas    *kubernetesapi.ImpersonationConfig
		client []string
		want   string // "" is refused
	}{
		{"none", rest.ImpersonationConfig{}, nil, nil, "Authorization: Bearer agent-token"},
		{"kas is empty", rest.ImpersonationConfig{}, &kubernetesapi.ImpersonationConfig{}, nil, "Authorization: Bearer agent-token"},
		{"self", self, nil, nil, agent + "Impersonate-Group: sg\nImpersonate-User: self"},
		{"kas", rest.ImpersonationConfig{}, kas, nil, agent + "Impersonate-Group: kg\nImpersonate-User: kas"},
		{
			"client",
			rest.ImpersonationConfig{},
			nil,
			[]string{"impersonate-user", "c", "Impersonate-Group", "g1", "impersonate-group", "g2"},
			agent + "Impersonate-Group: g1,g2\nImpersonate-User: c",
		},
		{"self and kas", self, kas, nil, ""},
		{"self and client", self, nil, []string{"Impersonate-User", "c"}, ""},
		{"kas and client", rest.ImpersonationConfig{}, kas, []string{"Impersonate-User", "c"}, ""},
		{"kas and client group", rest.ImpersonationConfig{}, kas, []string{"Impersonate-Group", "c"}, ""},
		{"kas and client uid", rest.ImpersonationConfig{}, kas, []string{"Impersonate-Uid", "c"}, ""},
		{"kas and client extra", rest.ImpersonationConfig{}, kas, []string{"impersonate-EXTRA-x", "c"}, ""},
		{"all", self, kas, []string{"Impersonate-User", "c"}, ""},
		{"kas has a uid only, and client", rest.ImpersonationConfig{}, &kubernetesapi.ImpersonationConfig{Uid: "u"}, []string{"Impersonate-User", "c"}, ""},
		{"self with uid, and client", rest.ImpersonationConfig{UserName: "s", UID: "u"}, nil, []string{"Impersonate-User", "c"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := apiServer(t, identityOf)
			cfg.Impersonate = tc.self
			c := start(t, Config{REST: cfg})
			for _, upgrade := range [][]string{nil, {"Upgrade", "SPDY/3.1", "Connection", "upgrade"}} {
				req := get(t, "/", append(tc.client, upgrade...)...)
				if tc.want == "" {
					wantRefused(t, c, req, identity(t, tc.kas), "nested impersonation is not supported")
					continue
				}
				if _, got := body(t, c, req, identity(t, tc.kas)); got != tc.want {
					t.Error(cmp.Diff(tc.want, got))
				}
			}
		})
	}
}

func TestClient_IdentityHeaders(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, identityOf)})
	_, got := body(t, c, get(t, "/"), identity(t, &kubernetesapi.ImpersonationConfig{
		Username: "gitlab:ci_job:1",
		Groups:   []string{"gitlab:ci_job", "gitlab:group:5", "gitlab:group:2"},
		Uid:      "uid",
		Extra: []*kubernetesapi.ExtraKeyVal{
			{Key: "agent.gitlab.com/id", Val: []string{"7"}},
			{Key: "50%\u00e9", Val: []string{"a", "b"}},
		},
	}))
	want := strings.Join([]string{
		"Authorization: Bearer agent-token",
		"Impersonate-Extra-50%25%c3%a9: a,b",
		"Impersonate-Extra-Agent.gitlab.com%2fid: 7",
		"Impersonate-Group: gitlab:ci_job,gitlab:group:5,gitlab:group:2",
		"Impersonate-Uid: uid",
		"Impersonate-User: gitlab:ci_job:1",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An identity that cannot be sent whole is refused instead of becoming less.
func TestClient_IdentityFailsClosed(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })})
	for name, id := range map[string]*kubernetesapi.ImpersonationConfig{
		"groups only":          {Groups: []string{"g"}},
		"uid only":             {Uid: "u"},
		"extra only":           {Extra: []*kubernetesapi.ExtraKeyVal{{Key: "k", Val: []string{"v"}}}},
		"newline in user":      {Username: "a\r\nImpersonate-Group: system:masters"},
		"newline in group":     {Username: "a", Groups: []string{"b\nc"}},
		"NUL in uid":           {Username: "a", Uid: "\x00"},
		"trimmed group":        {Username: "a", Groups: []string{" system:masters"}},
		"trimmed user":         {Username: "a "},
		"extra without key":    {Username: "a", Extra: []*kubernetesapi.ExtraKeyVal{{Val: []string{"v"}}}},
		"newline in the extra": {Username: "a", Extra: []*kubernetesapi.ExtraKeyVal{{Key: "k", Val: []string{"v\nw"}}}},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, c, get(t, "/"), identity(t, id), "identity has") })
	}
}

// CVE-2021-31999: a Connection header that lists Impersonate-* would make it vanish on the way.
func TestClient_CVE_2021_31999_ConnectionListsImpersonate(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })})
	for _, connection := range []string{"Impersonate-User", "close, impersonate-group", "upgrade,IMPERSONATE-EXTRA-x"} {
		wantRefused(t, c, get(t, "/", "Impersonate-User", "x", "Connection", "", "Connection", connection), nil, "Connection header lists")
	}
}

// CVE-2026-61682: X-Remote-* of a requester never reach the API server, on either path.
func TestClient_CVE_2026_61682_RemoteHeaders(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, identityOf)})
	for _, upgrade := range [][]string{nil, {"Upgrade", "SPDY/3.1", "Connection", "upgrade"}} {
		_, got := body(t, c, get(t, "/", append([]string{
			"X-Remote-User", "admin", "x-remote-group", "system:masters", "X-REMOTE-EXTRA-a", "b", "X-Remote-Uid", "1", "X-Remote-Group", "again",
			"authorization", "Basic eDp5",
		}, upgrade...)...), nil)
		if got != "Authorization: Bearer agent-token" {
			t.Error(got)
		}
	}
}

func TestNew_Refuses(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"self without user": {func(c *Config) { c.REST.Impersonate.Groups = []string{"g"} }, "--as"},
		"self and account": {func(c *Config) {
			c.REST.Impersonate.UserName = "u"
			c.ImpersonationServiceAccount = "a/b"
		}, "exclude each other"},
		"account and file": {func(c *Config) {
			c.ImpersonationServiceAccount = "a/b"
			c.ImpersonationTokenFile = "f"
		}, "exclude each other"},
		"account without namespace": {func(c *Config) { c.ImpersonationServiceAccount = "b" }, "<namespace>/<name>"},
		"account with path":         {func(c *Config) { c.ImpersonationServiceAccount = "a/b/../c" }, "<namespace>/<name>"},
		"address":                   {func(c *Config) { c.REST.Host = "https://\x7f" }, "address"},
		"CA":                        {func(c *Config) { c.REST.CAData = []byte("x") }, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{REST: apiServer(t, echo), Log: zaptest.NewLogger(t)}
			tc.edit(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Error(err)
			}
		})
	}
}
