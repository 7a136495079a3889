package line

import (
	"context"
	"strings"
	"testing"
)

// StartT starts a line for one test and stops it afterwards. It fails t when it cannot, shows the ends of all logs when t failed, and
// fails t when a daemon's race detector found something.
func StartT(t testing.TB, cfg Config) *Line {
	t.Helper()
	l, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.finish(t) })
	return l
}

func (l *Line) finish(t testing.TB) {
	t.Helper()
	// The logs are read before Stop removes them, and daemons write races at once.
	for name, log := range l.Logs() {
		if strings.Contains(log, "WARNING: DATA RACE") {
			t.Errorf("%s has a data race", name)
		}
		if strings.Contains(log, "panic:") {
			t.Errorf("%s panicked", name)
		}
	}
	if t.Failed() {
		for name, log := range l.Logs() {
			t.Logf("--- %s ---\n%s", name, log[max(0, len(log)-8000):])
		}
	}
	l.Stop()
}

// Eventually polls until check returns nil, and fails t with its last error when ctx ends first.
func Eventually(ctx context.Context, t testing.TB, what string, check func(context.Context) error) {
	t.Helper()
	if err := Wait(ctx, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
