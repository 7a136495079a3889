package k8sapi

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// bothPaths are the headers of a plain request and of an upgrade.
var bothPaths = map[string][]string{"plain": nil, "upgrade": {"Upgrade", "SPDY/3.1", "Connection", "upgrade"}}

// Every kind of credentials that a kubeconfig may hold works for plain requests and for upgrades. (Client certificates: see the test
// with a real cluster.)
func TestClient_Credentials(t *testing.T) {
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("file-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		edit func(*rest.Config)
		want string
	}{
		"token":      {func(c *rest.Config) { c.BearerToken = "t" }, "Bearer t"},
		"token file": {func(c *rest.Config) { c.BearerTokenFile = tokenFile }, "Bearer file-token"},
		"basic":      {func(c *rest.Config) { c.Username, c.Password = "x", "y" }, "Basic eDp5"},
		"exec plugin": {func(c *rest.Config) {
			c.ExecProvider = &clientcmdapi.ExecConfig{
				APIVersion: "client.authentication.k8s.io/v1", Command: "/bin/sh", InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
				Args: []string{"-c", `echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"exec-token"}}'`},
			}
		}, "Bearer exec-token"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := apiServer(t, identityOf)
			cfg.BearerToken = ""
			tc.edit(cfg)
			c := start(t, Config{REST: cfg})
			for path, header := range bothPaths {
				if _, got := body(t, c, get(t, "/", header...), nil); got != "Authorization: "+tc.want {
					t.Errorf("%s: %s", path, got)
				}
			}
		})
	}
}

func TestClient_TransportRefusesBadCredentials(t *testing.T) {
	cfg := apiServer(t, identityOf)
	cfg.Username = "and a token"
	if _, err := New(Config{REST: cfg}); err == nil || !strings.Contains(err.Error(), "not both") {
		t.Error(err)
	}
}

// The agent's own requests carry its own impersonation, and nobody else's.
func TestClient_Own(t *testing.T) {
	cfg := apiServer(t, identityOf)
	cfg.Impersonate.UserName = "self"
	c := start(t, Config{REST: cfg})
	req := get(t, "/")
	req.URL.Scheme, req.URL.Host = c.base.Scheme, c.base.Host
	resp, err := c.Own().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 1000)
	n, _ := resp.Body.Read(b)
	if got := string(b[:n]); got != "Authorization: Bearer agent-token\nImpersonate-User: self" {
		t.Error(got)
	}
}

// A header is made once for a token, and anew for another; one that cannot be read leaves the first token in use.
func TestBearer_Fresh(t *testing.T) {
	var token string
	var err error
	b := &bearer{static: "first", fresh: func() (string, error) { return token, err }}
	for _, tc := range []struct {
		token string
		err   error
		want  string
	}{{"a", nil, "a"}, {"a", nil, "a"}, {"b", nil, "b"}, {"", errors.New("gone"), "first"}, {"b", nil, "b"}} {
		token, err = tc.token, tc.err
		h := http.Header{}
		b.authorize(h)
		if got := h.Get("Authorization"); got != "Bearer "+tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
		h.Add("Authorization", "more") // of this request only
	}
	h := http.Header{"Authorization": {"own"}}
	if b.authorize(h); h.Get("Authorization") != "own" {
		t.Error(h)
	}
}

func TestLasts(t *testing.T) {
	for query, want := range map[string]bool{
		"": false, "watch=1": true, "watch=0": false, "follow=true": true, "follow=false": false, "a=watch": false, "w%61tch=1": true, "limit=5&watch": true, "follow": true,
		"fieldSelector=a%3Db": false, "fieldSelector=a%3Db&watch=true": true,
	} {
		req := get(t, "/")
		if req.URL.RawQuery = query; lasts(req) != want {
			t.Errorf("%q: %v", query, !want)
		}
	}
}
