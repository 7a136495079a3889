package tool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDebian_ProgramPresent(t *testing.T) {
	if path := Debian(t, "dash", "sh"); !filepath.IsAbs(path) {
		t.Errorf("path of sh = %q, want an absolute one", path)
	}
}

func TestInstall_NoSuchPackage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := Install(ctx, "no-such-package-of-agentk", "no-such-program-of-agentk")
	if err == nil || !strings.Contains(err.Error(), "no-such-program-of-agentk is missing") {
		t.Errorf("err = %v, want one that names the missing program", err)
	}
}

func TestLock_SecondWaitsForFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: err = %v, want deadline exceeded", err)
	}
	unlock()
	unlock()
	again, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	again()
}

func TestHoldServices(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy-rc.d")
	restore, err := holdServices(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("no policy while packages are installed: %v", err)
	}
	restore()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("policy still there: %v", err)
	}

	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	restore, err = holdServices(path)
	if err != nil {
		t.Fatal(err)
	}
	restore()
	if got, _ := os.ReadFile(path); string(got) != "#!/bin/sh\nexit 0\n" {
		t.Errorf("the machine's own policy became %q", got)
	}
}
