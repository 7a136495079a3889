package kas

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/backend"
)

func TestOriginOf(t *testing.T) {
	for in, want := range map[string]string{
		"https://gitlab.test":                "https://gitlab.test",
		"https://gitlab.test/":               "https://gitlab.test",
		"https://gitlab.test/sub":            "https://gitlab.test",
		"HTTPS://GitLab.Test:443":            "https://gitlab.test",
		"http://gitlab.test:80/":             "http://gitlab.test",
		"http://gitlab.test:443":             "http://gitlab.test:443",
		"https://user:secret@gitlab.test:81": "https://gitlab.test:81",
		"https://[::1]:443":                  "https://[::1]",
		"https://[::1]":                      "https://[::1]",
		"https://gitlab.test:":               "https://gitlab.test",
		"mailto:me":                          "",
		"%zz":                                "",
	} {
		got, err := originOf(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", in, got, err)
		}
		if err != nil && strings.Contains(err.Error(), in) {
			t.Errorf("the error shows the address: %v", err)
		}
	}
}

// What GitLab has said of an agent's own project is enough, however the agent names it.
func TestGitLabProjects_Own(t *testing.T) {
	agent := backend.Agent{Project: backend.Project{ID: 10, Path: "acme/Infra", DefaultBranch: "main"}}
	for _, id := range []string{"acme/Infra", "Acme/infra", "10"} {
		if got, err := (gitlabProjects{}).Project(t.Context(), "token", agent, id); err != nil || got.DefaultBranch != "main" {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
}

func TestRefreshPeriod(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		0: 5 * time.Minute, time.Millisecond: time.Second, time.Minute: time.Minute, 5 * time.Minute: 5 * time.Minute, time.Hour: 5 * time.Minute,
	} {
		if got := refreshPeriod(ttl); got != want {
			t.Errorf("%s: %s, want %s", ttl, got, want)
		}
	}
}

func TestWebSocketKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := checkWebSocketKey(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("missing: %v", err)
	}
	encoded := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("canary", 20)[:n])) }
	for content, ok := range map[string]bool{
		encoded(64): true, encoded(72): true, encoded(72) + "\n": true, encoded(70)[:30] + "\n" + encoded(70)[30:] + "\n": true,
		encoded(63): false, encoded(73): false, "": false, "\n": false, " " + encoded(72): false, strings.Repeat("canary", 11): false,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkWebSocketKey(path)
		if (err == nil) != ok {
			t.Errorf("%d bytes: %v", len(content), err)
		}
		if err != nil && (strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), path)) {
			t.Errorf("the error shows the key, or not the file: %v", err)
		}
	}
}
