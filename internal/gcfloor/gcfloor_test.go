package gcfloor

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

func read(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// forcedCollections counts those that somebody asked for, as one does who gives memory back.
const forcedCollections = "/gc/cycles/forced:gc-cycles"

func gogc() uint64 { return read("/gc/gogc:percent") }

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so, the percentage is %d", what, gogc())
		}
	}
}

var sink []byte

// garbage allocates what nobody keeps, faster than a daemon at rest.
func garbage() {
	for range 64 {
		sink = make([]byte, 64<<10)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("GOGC", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx) }()

	eventually(t, "the collector waits longer under load", func() bool { garbage(); return gogc() > usual })
	eventually(t, "it begins at the floor", func() bool {
		garbage()
		goal := read("/gc/heap/goal:bytes")
		return goal > Floor*8/10 && goal < Floor*2
	})
	// What is alive now is collected as usual.
	kept := make([][]byte, 0, 1000)
	for range cap(kept) {
		kept = append(kept, make([]byte, 64<<10))
	}
	eventually(t, "a large heap is no matter", func() bool { garbage(); return gogc() == usual })
	runtime.KeepAlive(kept)
	kept = nil
	eventually(t, "it is small again", func() bool { garbage(); return gogc() > usual })
	asked := read(forcedCollections)
	eventually(t, "at rest all is as before", func() bool { return gogc() == usual })
	eventually(t, "the memory is given back", func() bool { return read(forcedCollections) > asked })

	eventually(t, "busy again", func() bool { garbage(); return gogc() > usual })
	cancel()
	if err := <-ended; err != nil || gogc() != usual {
		t.Errorf("%v, the percentage is left at %d", err, gogc())
	}
}

func TestRun_EnvironmentDecides(t *testing.T) {
	t.Setenv("GOGC", "50")
	ctx, cancel := context.WithTimeout(t.Context(), 2*look)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx) }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			return
		default:
			garbage()
			if gogc() != usual {
				t.Fatalf("the percentage is %d", gogc())
			}
		}
	}
}

func TestPercent(t *testing.T) {
	for _, tc := range []struct {
		live, roots uint64
		want        int
	}{
		{0, 0, usual},
		{4 << 20, 0, 500},
		{4 << 20, 4 << 20, 250},
		{12 << 20, 0, usual},
		{Floor, 0, usual},
		{1 << 30, 1 << 20, usual},
	} {
		if got := percent(tc.live, tc.roots); got != tc.want {
			t.Errorf("%d alive, %d of roots: %d, want %d", tc.live, tc.roots, got, tc.want)
		}
	}
}

// A burst makes a daemon busy at its first collection; what a daemon at rest allocates does not.
func TestFloor_Early(t *testing.T) {
	f := newFloor()
	f.early()
	if f.idle < quiet {
		t.Error("busy at rest")
	}
	garbage()
	f.early()
	defer f.set(usual)
	if f.idle != 0 {
		t.Error("at rest in a burst")
	}
}

// While what is alive grows the collector runs more often, above the floor only.
func TestFloor_Growing(t *testing.T) {
	f := newFloor()
	defer f.set(usual)
	f.idle = 0
	for _, step := range []struct {
		live uint64
		want bool
	}{
		{Floor / 2, false},
		{Floor - 1, false},
		{Floor, false},
		{Floor * 2, true},
		{Floor * 2, false},
		{Floor*2 + Floor/8, false},
		{Floor * 3, true},
		{Floor, false},
	} {
		f.grew(step.live)
		if f.growing != step.want {
			t.Errorf("%d alive: growing %t", step.live, f.growing)
		}
		if f.adjust(); step.want != (f.percent == eager) {
			t.Errorf("%d alive: %d %%", step.live, f.percent)
		}
	}
	f.grew(4 * Floor)
	f.idle = quiet
	if f.adjust(); f.percent != usual {
		t.Errorf("at rest: %d %%", f.percent)
	}
}
