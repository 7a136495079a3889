package swarm

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// The job reaches an agent over TLS, and is nobody to a client that does not trust the certificate.
func TestKas_SecureProxy(t *testing.T) {
	authority, err := line.NewAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewKas(t.Context(), shortDir(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.JobsAre(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := k.SecureProxy(authority); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(k.ProxyURL, "https://") || !strings.Contains(k.URL, k.AgentAddress()) {
		t.Errorf("proxy at %s, agents at %s, which is %s", k.ProxyURL, k.URL, k.AgentAddress())
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Kill)
	s, err := Start(t.Context(), Config{Agents: 2, KasURL: k.URL, Token: Token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	trusting := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(trusting.CloseIdleConnections)
	for i := range 2 {
		if err := k.ask(t.Context(), trusting, i); err != nil {
			t.Errorf("agent %d: %v", i, err)
		}
	}
	strange := &http.Transport{}
	t.Cleanup(strange.CloseIdleConnections)
	if err := k.ask(t.Context(), strange, 0); err == nil {
		t.Error("a client that does not know the certificate was served")
	}
}
