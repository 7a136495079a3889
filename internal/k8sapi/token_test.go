package k8sapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/fault"
)

var jane = &kubernetesapi.ImpersonationConfig{Username: "jane"}

// tokenServer is an API server that hands out token-1, token-2, ... and says who it sees.
type tokenServer struct {
	requests atomic.Int64
	refuse   atomic.Bool
	invalid  atomic.Value // the token that is answered 401
	life     time.Duration
}

func (s *tokenServer) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/api/v1/namespaces/ns/serviceaccounts/imp/token" {
		if r.Header.Get("Authorization") == s.invalid.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
		identityOf(w, r)
		return
	}
	n := s.requests.Add(1)
	if s.refuse.Load() || r.Header.Get("Authorization") != "Bearer agent-token" {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(metav1.Status{Message: "you may not"})
		return
	}
	var req authenticationv1.TokenRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	seconds := int64(s.life / time.Second)
	req.Spec.ExpirationSeconds = &seconds
	req.Status = authenticationv1.TokenRequestStatus{
		Token: fmt.Sprintf("token-%d", n), ExpirationTimestamp: metav1.NewTime(time.Now().Add(s.life)),
	}
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(req)
}

func newTokenServer(t *testing.T) (*tokenServer, *rest.Config) {
	s := &tokenServer{life: time.Hour}
	s.invalid.Store("")
	return s, apiServer(t, s.serve)
}

func TestImpersonationServiceAccount(t *testing.T) {
	s, cfg := newTokenServer(t)
	c := start(t, Config{REST: cfg, ImpersonationServiceAccount: "ns/imp"})
	for range 3 {
		if _, got := body(t, c, get(t, "/"), identity(t, jane)); got != "Authorization: Bearer token-1\nImpersonate-User: jane" {
			t.Error(got)
		}
	}
	if _, got := body(t, c, get(t, "/"), nil); got != "Authorization: Bearer agent-token" {
		t.Error("without identity:", got)
	}
	if _, got := body(t, c, get(t, "/", "Impersonate-User", "c"), nil); got != "Authorization: Bearer agent-token\nImpersonate-User: c" {
		t.Error("identity of the client:", got)
	}
	_, got := body(t, c, get(t, "/", "Upgrade", "websocket"), identity(t, jane))
	if got != "Authorization: Bearer token-1\nImpersonate-User: jane" || s.requests.Load() != 1 {
		t.Error(got)
	}
}

func TestImpersonationServiceAccount_FailsClosed(t *testing.T) {
	s, cfg := newTokenServer(t)
	s.refuse.Store(true)
	c := start(t, Config{REST: cfg, ImpersonationServiceAccount: "ns/imp"})
	_, err := c.RoundTrip(get(t, "/"), identity(t, jane))
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "403 you may not") || !strings.Contains(err.Error(), "agent: ") {
		t.Error(err)
	}
	if _, got := body(t, c, get(t, "/"), nil); got != "Authorization: Bearer agent-token" {
		t.Error("without identity:", got)
	}
}

// The agent's client certificate must not stand beside the account's token: the API server would look at it first.
func TestImpersonationServiceAccount_NoOtherCredentials(t *testing.T) {
	cfg := &rest.Config{
		Host: "https://x", BearerToken: "t", BearerTokenFile: "f", Username: "u", Password: "p",
		TLSClientConfig: rest.TLSClientConfig{CertFile: "c", KeyFile: "k", CertData: []byte("c"), KeyData: []byte("k"), CAData: []byte("ca")},
		WrapTransport:   func(rt http.RoundTripper) http.RoundTripper { return rt },
	}
	got := noCredentials(cfg)
	if got.BearerToken+got.BearerTokenFile+got.Username+got.Password+got.CertFile+got.KeyFile != "" ||
		len(got.CertData)+len(got.KeyData) > 0 || got.WrapTransport != nil || string(got.CAData) != "ca" {
		t.Errorf("%+v", got)
	}
}

func TestImpersonationServiceAccount_RejectedTokenIsReplaced(t *testing.T) {
	s, cfg := newTokenServer(t)
	c := start(t, Config{REST: cfg, ImpersonationServiceAccount: "ns/imp"})
	if _, err := c.account.token(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.invalid.Store("Bearer token-1")
	age := func() {
		c.account.mu.Lock()
		defer c.account.mu.Unlock()
		c.account.fetched = c.account.fetched.Add(-time.Minute)
	}
	if resp, _ := body(t, c, get(t, "/"), identity(t, jane)); resp.StatusCode != http.StatusUnauthorized || s.requests.Load() != 1 {
		t.Error("a brand new token is not replaced:", resp.Status, s.requests.Load())
	}
	age()
	if resp, _ := body(t, c, get(t, "/"), identity(t, jane)); resp.StatusCode != http.StatusUnauthorized {
		t.Error(resp.Status)
	}
	if _, got := body(t, c, get(t, "/"), identity(t, jane)); got != "Authorization: Bearer token-2\nImpersonate-User: jane" {
		t.Error(got)
	}
}

// A valid token outlives failures to renew it, and not its own expiry.
func TestAccountTokens_Renewal(t *testing.T) {
	s, cfg := newTokenServer(t)
	c := start(t, Config{REST: cfg, ImpersonationServiceAccount: "ns/imp"})
	a := c.account
	if got, err := a.token(t.Context()); got != "token-1" {
		t.Fatal(got, err)
	}
	s.refuse.Store(true)
	if _, err := a.fetch(t.Context()); err == nil {
		t.Error("renewal is refused")
	}
	if got, err := a.token(t.Context()); got != "token-1" {
		t.Error(got, err)
	}
	a.mu.Lock()
	a.expires = time.Now()
	a.mu.Unlock()
	if got, err := a.token(t.Context()); err == nil {
		t.Error("expired token is used", got)
	}
	s.refuse.Store(false)
	if _, err := a.fetch(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := a.token(t.Context()); err != nil || got == "token-1" {
		t.Error(got, err)
	}
}

func TestLifeOf(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	for name, tc := range map[string]struct {
		spec *int64
		left time.Duration
		want time.Duration
	}{
		"as asked":                  {seconds(3600), time.Hour, time.Hour},
		"server grants less":        {seconds(600), 10 * time.Minute, 10 * time.Minute},
		"time stamp says less":      {seconds(3600), 5 * time.Minute, 5 * time.Minute},
		"our clock is far ahead":    {seconds(3600), -time.Hour, time.Hour},
		"no length, no good stamp":  {nil, -time.Hour, tokenLife},
		"a length that is no use":   {seconds(1), time.Hour, time.Second},
		"negative length is absurd": {seconds(-5), time.Hour, tokenLife},
	} {
		token := &authenticationv1.TokenRequest{
			Spec:   authenticationv1.TokenRequestSpec{ExpirationSeconds: tc.spec},
			Status: authenticationv1.TokenRequestStatus{ExpirationTimestamp: metav1.NewTime(time.Now().Add(tc.left))},
		}
		if got := lifeOf(token); got > tc.want || got < tc.want-5*time.Second {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestImpersonationTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	c := start(t, Config{REST: apiServer(t, identityOf), ImpersonationTokenFile: path})
	_, err := c.RoundTrip(get(t, "/"), identity(t, jane))
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	for _, token := range []string{"one", "three"} {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, got := body(t, c, get(t, "/"), identity(t, jane)); got != "Authorization: Bearer "+token+"\nImpersonate-User: jane" {
			t.Error(got)
		}
	}
}
