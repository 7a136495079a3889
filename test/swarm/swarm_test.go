package swarm

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stormLimit is five times what the agents of the large storm may take.
const stormLimit = 5 * 30 * time.Second

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "swarm-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// kas dies and comes back, and so do all its agents.
func TestStorm(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*stormLimit)
	defer cancel()
	served, err := Storm(ctx, shortDir(t), 200, func(text string) { t.Log(text) })
	if err != nil {
		t.Fatal(err)
	}
	if took := served.Share(0.99); took > stormLimit {
		t.Errorf("99 %% of the agents served again after %s", took)
	}
}

func TestStart_Bad(t *testing.T) {
	token := func(int) string { return "t" }
	for name, cfg := range map[string]Config{
		"no agents": {KasURL: "ws://x", Token: token},
		"no kas":    {Agents: 1, Token: token},
		"no token":  {Agents: 1, KasURL: "ws://x"},
		"bad URL":   {Agents: 1, KasURL: "x", Token: token},
	} {
		if _, err := Start(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestServed_Share(t *testing.T) {
	s := Served{}
	for i := range 100 {
		s = append(s, time.Duration(i))
	}
	if s.Share(0) != 0 || s.Share(0.5) != 50 || s.Share(0.99) != 99 || s.Share(1) != 99 {
		t.Error(s.Share(0), s.Share(0.5), s.Share(0.99), s.Share(1))
	}
}
