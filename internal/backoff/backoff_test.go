package backoff

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoff_GrowsToMax(t *testing.T) {
	b := New(Policy{Initial: time.Second, Max: 5 * time.Second, Factor: 2, ResetAfter: time.Minute})
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if got := b.Next(); got != want {
			t.Errorf("delay %d is %v, want %v", i, got, want)
		}
	}
	b.Reset()
	if got := b.Next(); got != time.Second {
		t.Errorf("after a reset: %v", got)
	}
}

func TestBackoff_JitterNeverShortens(t *testing.T) {
	b := New(Policy{Initial: 10 * time.Second, Max: 10 * time.Second, Factor: 2, Jitter: 1, ResetAfter: time.Minute})
	for range 1000 {
		if got := b.Next(); got < 10*time.Second || got >= 20*time.Second {
			t.Fatalf("delay %v is outside [10s, 20s)", got)
		}
	}
}

func TestBackoff_QuietTimeResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Policy{Initial: time.Second, Max: time.Minute, Factor: 2, ResetAfter: 2 * time.Minute})
		b.Next()
		if got := b.Next(); got != 2*time.Second {
			t.Errorf("second failure: %v", got)
		}
		time.Sleep(2*time.Minute + 2*time.Second)
		if got := b.Next(); got != time.Second {
			t.Errorf("failure after a quiet time: %v, want 1s", got)
		}
	})
}
