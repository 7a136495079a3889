package child

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/test/fakeengine"
)

const (
	limit  = time.Minute
	parent = "FAKE_PARENT"
)

func TestMain(m *testing.M) {
	fakeengine.Main()
	if path := os.Getenv(parent); path != "" {
		beParent(path)
	}
	goleak.VerifyTestMain(m)
}

// heard collects what the engine says.
type heard struct {
	mu  sync.Mutex
	all []*engine.FromEngine
	new chan struct{}
}

func (h *heard) receive(m *engine.FromEngine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, m)
	select {
	case h.new <- struct{}{}:
	default:
	}
}

// line waits for a line of the engine's log and returns its fields.
func (h *heard) line(t *testing.T, message string) map[string]string {
	t.Helper()
	deadline := time.After(limit)
	for {
		h.mu.Lock()
		for _, m := range h.all {
			if m.GetLog().GetMessage() == "fake: "+message {
				h.mu.Unlock()
				return m.GetLog().GetFields()
			}
		}
		h.mu.Unlock()
		select {
		case <-h.new:
		case <-deadline:
			t.Fatalf("the engine never says %q", message)
		}
	}
}

func config(t *testing.T) (Config, *heard) {
	h := &heard{new: make(chan struct{}, 1)}
	return Config{
		Executable: fakeengine.Executable(t), Memory: 1 << 30, Receive: h.receive, Secrets: []string{"canary"},
		Setup: &engine.Setup{AgentId: 7}, Look: 10 * time.Millisecond, Start: limit, Silence: limit,
	}, h
}

// files makes the engine run files with these contents.
func files(t *testing.T, e *Engine, contents ...string) {
	messages := []*engine.ToEngine{{Message: &engine.ToEngine_Begin{Begin: &engine.Begin{
		Worker: "w", Unit: &engine.Begin_Chart{Chart: &engine.Chart{CommitId: "c"}},
	}}}}
	for i, content := range contents {
		messages = append(messages, &engine.ToEngine{Message: &engine.ToEngine_File{File: &engine.File{
			Worker: "w", Path: fmt.Sprint(i), Data: []byte(content),
		}}})
	}
	for _, m := range append(messages, &engine.ToEngine{Message: &engine.ToEngine_Run{Run: &engine.Run{Worker: "w"}}}) {
		if err := e.Send(m); err != nil {
			t.Error(err)
		}
	}
}

func TestRun(t *testing.T) {
	t.Setenv("AGENTK_TOKEN", "canary-token")
	cfg, h := config(t)
	cfg.Environment = []string{"KUBERNETES_SERVICE_HOST=10.0.0.1"}
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, cfg, func(ctx context.Context, e *Engine) {
		files(t, e, "x", "y")
		if got := h.line(t, "run"); got["files"] != `{"0:0":"x","0:1":"y"}` {
			t.Error(got)
		}
		cancel()
		<-ctx.Done()
	})
	if err != nil {
		t.Error(err)
	}
	setup := h.line(t, "setup")
	want := "PATH=\nGOTRACEBACK=single\nGOMEMLIMIT=858993460\nKUBERNETES_SERVICE_HOST=10.0.0.1"
	if setup["environment"] != want || !strings.Contains(setup["setup"], `"agent":7`) {
		t.Errorf("%s", setup)
	}
	gone(t, setup["pid"])
}

// What is left of the two seconds after a Lease is lost is for a busy machine.
func TestDefaults(t *testing.T) {
	cfg := Config{}
	cfg.fill()
	if cfg.Stop > time.Second || cfg.Silence == 0 || cfg.Start == 0 || cfg.Look == 0 {
		t.Errorf("%+v", cfg)
	}
}

func TestRun_UseReturns(t *testing.T) {
	cfg, h := config(t)
	if err := Run(t.Context(), cfg, func(context.Context, *Engine) {}); err != nil {
		t.Error(err)
	}
	gone(t, h.line(t, "setup")["pid"])
}

// The engine and what it has started are gone soon after the cancellation, also if it would rather stay.
func TestRun_CancelKillsAll(t *testing.T) {
	cfg, h := config(t)
	cfg.Environment, cfg.Stop = []string{fakeengine.Stubborn + "=1", fakeengine.Child + "=1"}, 100*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var at time.Time
	err := Run(ctx, cfg, func(ctx context.Context, _ *Engine) {
		h.line(t, "child")
		at = time.Now()
		cancel()
		<-ctx.Done()
	})
	if err != nil || time.Since(at) > limit/3 {
		t.Error(err, time.Since(at))
	}
	gone(t, h.line(t, "setup")["pid"])
	gone(t, h.line(t, "child")["pid"])
}

// A message that the engine does not read holds up no cancellation.
func TestRun_CancelWhileDeaf(t *testing.T) {
	cfg, _ := config(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	begin := time.Now()
	err := Run(ctx, cfg, func(_ context.Context, e *Engine) {
		files(t, e, fakeengine.Deaf)
		for e.Send(file(1<<20)) == nil {
		}
	})
	if err != nil || time.Since(begin) > limit/2 {
		t.Error(err, time.Since(begin))
	}
}

func file(size int) *engine.ToEngine {
	return &engine.ToEngine{Message: &engine.ToEngine_File{File: &engine.File{Worker: "w", Path: "p", Data: make([]byte, size)}}}
}

func TestRun_EngineFails(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		file   string
		want   string
	}{
		"crash":         {nil, fakeengine.Crash, "exit status 2; its last words: panic: the fake engine crashes, and knows the secret [secret]"},
		"exit":          {nil, fakeengine.Exit, "it ended by itself, exit status 0"},
		"garbage":       {nil, fakeengine.Garbage, "cannot be understood"},
		"output closed": {nil, fakeengine.Closed, "it closed its output and goes on"},
		"silence":       {func(c *Config) { c.Silence = 3 * time.Second }, fakeengine.Hang, "it has said nothing for 3s"},
		"memory":        {func(c *Config) { c.Memory = 256 << 20 }, fakeengine.Bloat, "more than its memory limit of 256Mi (--gitops-memory-limit)"},
		"never ready": {
			func(c *Config) { c.Environment, c.Start = []string{fakeengine.Never + "=1"}, time.Second }, "", "it was not ready within 1s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, h := config(t)
			if tc.change != nil {
				tc.change(&cfg)
			}
			err := Run(t.Context(), cfg, func(ctx context.Context, e *Engine) {
				files(t, e, tc.file)
				select {
				case <-ctx.Done():
				case <-time.After(limit):
					t.Error("the engine goes on")
				}
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary") {
				t.Error(err)
			}
			if tc.file != "" {
				gone(t, h.line(t, "setup")["pid"])
			}
		})
	}
}

func TestRun_DoesNotRead(t *testing.T) {
	cfg, _ := config(t)
	cfg.Silence = 4 * time.Second
	err := Run(t.Context(), cfg, func(_ context.Context, e *Engine) {
		files(t, e, fakeengine.Deaf)
		for e.Send(file(1<<20)) == nil {
		}
	})
	if err == nil || !strings.Contains(err.Error(), "it left a message unread for 4s") {
		t.Error(err)
	}
}

func TestSend_TooLarge(t *testing.T) {
	cfg, h := config(t)
	err := Run(t.Context(), cfg, func(_ context.Context, e *Engine) {
		if err := e.Send(file(9 << 20)); err == nil {
			t.Error("a message above the limit was sent")
		}
		files(t, e, "x") // and the engine goes on
		h.line(t, "run")
	})
	if err != nil {
		t.Error(err)
	}
}

func TestRun_Refused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no such file": func(c *Config) { c.Executable = "/nonexistent/agentk-gitops" },
		"no program": func(c *Config) {
			c.Executable = filepath.Join(t.TempDir(), "x")
			_ = os.WriteFile(c.Executable, nil, 0o600)
		},
		"no limit":    func(c *Config) { c.Memory = 0 },
		"no receiver": func(c *Config) { c.Receive = nil },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := config(t)
			change(&cfg)
			if err := Run(t.Context(), cfg, func(context.Context, *Engine) { t.Error("used") }); err == nil {
				t.Error("no error")
			}
		})
	}
}

// beParent is a process that has an engine, and is killed.
func beParent(executable string) {
	err := Run(context.Background(), Config{
		Executable: executable, Memory: 1 << 30, Setup: &engine.Setup{},
		Environment: []string{fakeengine.Stubborn + "=1", fakeengine.Quiet + "=1"}, // nothing but the kernel ends it
		Receive: func(m *engine.FromEngine) {
			if pid := m.GetLog().GetFields()["pid"]; pid != "" {
				fmt.Println(pid)
			}
		},
	}, func(ctx context.Context, _ *Engine) { <-ctx.Done() })
	fmt.Println(err)
	os.Exit(1)
}

func TestRun_ParentIsKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), parent+"="+fakeengine.Executable(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	gone(t, strings.TrimSpace(pid))
}

// gone waits until there is no such process, or only its exit status.
func gone(t *testing.T, text string) {
	t.Helper()
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("process %d lives on", pid)
}
