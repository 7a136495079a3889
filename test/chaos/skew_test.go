//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// aheadKas builds a kas whose clock is five minutes ahead, by a changed time.Now: there is no other way to give one process of a machine a
// wrong clock, since Go asks the kernel without a library that could be replaced.
func aheadKas(t *testing.T) string {
	t.Helper()
	const now = "sec, nsec, mono := runtimeNow()\n"
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	content, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(content), "func Now() Time {\n\t"+now) != 1 {
		t.Fatalf("time.Now is not what it was: change this test")
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "time.go")
	ahead := strings.Replace(string(content), "func Now() Time {\n\t"+now, fmt.Sprintf("func Now() Time {\n\t%s\tsec += %d\n", now, int(skew.Seconds())), 1)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		t.Fatal(err)
	}
	program, overlayFile := filepath.Join(dir, "kas"), filepath.Join(dir, "overlay.json")
	for path, content := range map[string][]byte{changed: []byte(ahead), overlayFile: overlay} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The first time, this compiles everything.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "build", "-overlay", overlayFile, "-o", program, "gitlab.com/agentk/agentk/cmd/kas").CombinedOutput()
	if err != nil {
		t.Fatalf("build a kas that is ahead: %v\n%s", err, out)
	}
	return program
}

// Neither of two kas whose clocks differ by five minutes believes the other. Each serves the agents that it holds; for those of the other one
// the client has an answer that says why not.
func TestClock_OfOneKas_IsFiveMinutesAhead(t *testing.T) {
	cfg := config()
	cfg.Programs = map[int]string{1: aheadKas(t)}
	f := start(t, cfg)
	for i, k := range f.Kas {
		other := f.Kas[1-i]
		if _, err := f.StopAgent(soon(t), demo); err != nil {
			t.Fatal(err)
		}
		f.Agents.Only(k.Name)
		if err := f.StartAgent(soon(t), demo); err != nil {
			t.Fatal(err)
		}
		eventually(t, k.Name+" serves its own agent", func(ctx context.Context) error { return ok(ask(ctx, f, via(k), demo, word)) })
		began := time.Now()
		a := ask(soon(t), f, via(other), demo, word)
		if ok(a) == nil {
			t.Errorf("through %s: a kas with a wrong clock was believed", other.Name)
			continue
		}
		if reason, err := a.reason(); err != nil {
			t.Errorf("through %s: %v", other.Name, err)
		} else {
			t.Logf("through %s, after %s: HTTP status %d: %s", other.Name, time.Since(began).Round(time.Millisecond), a.code, reason)
		}
	}
}
