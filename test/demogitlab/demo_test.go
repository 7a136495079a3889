package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // Kubernetes may have to be built
	defer cancel()
	var out bytes.Buffer
	if code := run(ctx, &out, false); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &out)
	}
	if !strings.Contains(out.String(), "All 12 steps done") {
		t.Errorf("no summary in\n%s", &out)
	}
}

func TestDemo_KeepUntilInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out := &interrupter{at: "Everything stays up until Ctrl-C", interrupt: cancel}
	if code := run(ctx, out, true); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, &out.Buffer)
	}
	if !strings.Contains(out.String(), "kubectl --server") {
		t.Errorf("no exports in\n%s", &out.Buffer)
	}
}

func TestDemo_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &interrupter{at: "Start kas beside it", interrupt: cancel}
	if code := run(ctx, out, false); code != interrupted {
		t.Errorf("exit code %d, want %d:\n%s", code, interrupted, &out.Buffer)
	}
}

// interrupter is a person who presses Ctrl-C on reading some words.
type interrupter struct {
	bytes.Buffer
	at        string
	interrupt func()
}

func (i *interrupter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(i.at)) {
		i.interrupt()
	}
	return i.Buffer.Write(p)
}
