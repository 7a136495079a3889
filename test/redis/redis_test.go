package redis

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(t *testing.T, s *Server, command ...string) string {
	t.Helper()
	got, err := s.Do(t.Context(), command...)
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return got
}

func TestServer_LifeOfOne(t *testing.T) {
	t.Parallel()
	s := StartT(t, Config{Persist: true, Unix: true})
	do(t, s, "SET", "a", "1")
	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Do(ctx, "PING"); err == nil {
		t.Error("a frozen server answered")
	}
	s.Resume()
	do(t, s, "PING")
	for _, end := range []func(){s.Stop, s.Kill} {
		end()
		if _, err := s.Do(t.Context(), "PING"); err == nil || s.PID() != 0 {
			t.Errorf("an ended server answered (%v), pid %d", err, s.PID())
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := do(t, s, "GET", "a"); got != "1" {
			t.Errorf("a is %q after a restart", got)
		}
	}
	keys, err := s.Keys(t.Context(), "*")
	if err != nil || len(keys) != 1 {
		t.Errorf("keys %v, %v", keys, err)
	}
	before, err := s.Commands(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	do(t, s, "GET", "a")
	if after, err := s.Commands(t.Context()); err != nil || after-before != 2 {
		t.Errorf("%d commands, %v, want GET and INFO", after-before, err)
	}
	if n, err := s.Counter(t.Context(), "connected_clients"); err != nil || n < 1 {
		t.Errorf("%d clients, %v", n, err)
	}
	if _, err := s.Counter(t.Context(), "no_such"); err == nil {
		t.Error("a counter that is none")
	}
}

func TestServer_Doors(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"password": {Password: "secret"},
		"user":     {Username: "kas", Password: "secret", Rules: "~kas:* +get"},
		"tls":      {TLS: true, ClientCertificates: true, Password: "secret"},
	} {
		s := StartT(t, cfg)
		if got := do(t, s, "PING"); got != "PONG" {
			t.Errorf("%s: %q", name, got)
		}
		s.cfg.Username, s.cfg.Password = "", ""
		var refused Error
		if _, err := s.Do(t.Context(), "PING"); !errors.As(err, &refused) || !strings.HasPrefix(refused.Error(), "NOAUTH") {
			t.Errorf("%s: without a password: %v", name, err)
		}
	}
}

func TestServer_Full(t *testing.T) {
	t.Parallel()
	s := StartT(t, Config{MaxMemory: "3mb"})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = s.Do(t.Context(), "APPEND", "a", strings.Repeat("x", 100_000))
	}
	if err == nil || !strings.HasPrefix(err.Error(), "OOM") {
		t.Errorf("err = %v, want OOM", err)
	}
}

func TestServer_BadConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Start(t.Context(), Config{Dir: dir, Lines: []string{"no-such-setting 1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-setting") {
		t.Errorf("err = %v, want what the server said", err)
	}
}

func TestSentinel_FailsOver(t *testing.T) {
	t.Parallel()
	s := StartSentinelT(t, SentinelConfig{Data: Config{Password: "data"}, SentinelPassword: "watch"})
	old, err := s.Master(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	do(t, old, "SET", "a", "1")
	do(t, old, "WAIT", "1", "5000")
	old.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for {
		master, err := s.Master(ctx)
		if err == nil && master != old {
			if got := do(t, master, "GET", "a"); got != "1" {
				t.Errorf("the new master says %q", got)
			}
			break
		}
		if ctx.Err() != nil {
			t.Fatal("no new master")
		}
		time.Sleep(poll)
	}
}

func TestCluster_AnswersForAllSlots(t *testing.T) {
	t.Parallel()
	c := StartClusterT(t, Config{Password: "secret"})
	moved := 0
	for _, node := range c.Nodes {
		if _, err := node.Do(t.Context(), "SET", "a", "1"); err != nil && strings.HasPrefix(err.Error(), "MOVED") {
			moved++
		}
	}
	if moved != clusterNodes-1 {
		t.Errorf("%d of %d nodes point to another one", moved, clusterNodes)
	}
}
