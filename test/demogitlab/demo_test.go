package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/narrator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // Kubernetes may have to be built
	defer cancel()
	var out bytes.Buffer
	if code := narrator.Run(ctx, &out, false, begin); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &out)
	}
	if !strings.Contains(out.String(), "All 12 steps done") {
		t.Errorf("no summary in\n%s", &out)
	}
}

func TestDemo_KeepUntilInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out := &narrator.Reader{At: "Everything stays up until Ctrl-C", Do: cancel}
	if code := narrator.Run(ctx, out, true, begin); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &out.Buffer)
	}
	if !strings.Contains(out.String(), "kubectl --server") {
		t.Errorf("no exports in\n%s", &out.Buffer)
	}
}

func TestDemo_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &narrator.Reader{At: "Start kas beside it", Do: cancel}
	if code := narrator.Run(ctx, out, false, begin); code != narrator.Interrupted {
		t.Errorf("exit code %d, want %d:\n%s", code, narrator.Interrupted, &out.Buffer)
	}
}
