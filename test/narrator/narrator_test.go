package narrator

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNarrator(t *testing.T) {
	var out bytes.Buffer
	n := New(&out)
	good := func(context.Context) error {
		n.Command("kubectl", "get", "pods")
		n.Output("two\nlines\n")
		n.Output("\n")
		return nil
	}
	if err := n.Step(t.Context(), "Look", good); err != nil {
		t.Fatal(err)
	}
	n.Summary(nil)
	for _, want := range []string{"\n 1. Look\n    $ kubectl get pods\n    two\n    lines\n", "\n  1. ok ", "All 1 steps done"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	out.Reset()
	bad := errors.New("first\nsecond")
	if err := n.Step(t.Context(), "Fall", func(context.Context) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("error %v", err)
	}
	n.Summary(bad)
	for _, want := range []string{"    FAILED: first\n    second\n", "  2. FAILED", "1 steps done"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
}

func TestNarrator_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := New(&bytes.Buffer{})
	err := n.Step(ctx, "Never", func(context.Context) error { t.Error("done all the same"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
