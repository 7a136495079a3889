package storetest

import (
	"strconv"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/store"
)

func located(t *testing.T, s Subject, agentID int64, want ...string) {
	t.Helper()
	got, err := s.Store.Tunnels(t.Context(), agentID)
	must(t, err)
	same(t, "locations", got, want)
}

func tunnels(t *testing.T, s Subject) {
	ctx := t.Context()
	located(t, s, 1)
	must(t, s.Store.AddTunnel(ctx, 1, "grpc://b", ttl))
	must(t, s.Store.AddTunnel(ctx, 1, "grpc://a", ttl))
	must(t, s.Store.AddTunnel(ctx, 1, "grpc://a", ttl))
	must(t, s.Store.AddTunnel(ctx, 2, "grpc://c", ttl))
	located(t, s, 1, "grpc://a", "grpc://b")
	s.Advance(ttl - time.Second)
	must(t, s.Store.RefreshTunnels(ctx, "grpc://a", ttl, 1, 2))
	s.Advance(2 * time.Second)
	located(t, s, 1, "grpc://a")
	located(t, s, 2, "grpc://a")
	must(t, s.Store.RemoveTunnel(ctx, 1, "grpc://a"))
	must(t, s.Store.RemoveTunnel(ctx, 1, "grpc://a"))
	must(t, s.Store.RemoveTunnel(ctx, 99, "grpc://a"))
	located(t, s, 1)
}

func tunnelExpires(t *testing.T, s Subject) {
	must(t, s.Store.AddTunnel(t.Context(), 1, "grpc://a", ttl))
	s.Advance(ttl + time.Second)
	located(t, s, 1)
}

func watch(t *testing.T, s Subject) {
	ctx, _ := cancelable(t)
	must(t, s.Store.AddTunnel(ctx, 1, "grpc://a", ttl))
	ch := s.Store.Watch(ctx, 1)
	other := s.Store.Watch(ctx, 1)
	receiveUntil(t, ch, []string{"grpc://a"})
	must(t, s.Store.AddTunnel(ctx, 1, "grpc://b", ttl))
	receiveUntil(t, ch, []string{"grpc://a", "grpc://b"})
	must(t, s.Store.RemoveTunnel(ctx, 1, "grpc://a"))
	must(t, s.Store.RemoveTunnel(ctx, 1, "grpc://b"))
	must(t, s.Store.AddTunnel(ctx, 1, "grpc://c", ttl))
	receiveUntil(t, ch, []string{"grpc://c"})
	receiveUntil(t, other, []string{"grpc://c"})
	// A location that has expired unnoticed comes back as a change.
	s.Advance(ttl + time.Second)
	must(t, s.Store.RefreshTunnels(ctx, "grpc://c", ttl, 1))
	receiveUntil(t, ch, []string{"grpc://c"})
}

func watchEnds(t *testing.T, s Subject) {
	ctx, cancel := cancelable(t)
	ch := s.Store.Watch(ctx, 1)
	cancel()
	receiveEnd(t, ch)
	must(t, s.Store.AddTunnel(t.Context(), 1, "grpc://a", ttl))
}

func events(t *testing.T, s Subject) {
	ctx, _ := cancelable(t)
	a, err := s.Store.Subscribe(ctx)
	must(t, err)
	b, err := s.Store.Subscribe(ctx)
	must(t, err)
	for _, path := range []string{"group/one", "group/two"} {
		must(t, s.Store.Publish(ctx, path))
		for _, ch := range []<-chan string{a, b} {
			if got, _ := receive(t, ch); got != path {
				t.Errorf("received %q, want %q", got, path)
			}
		}
	}
}

func eventsSlow(t *testing.T, s Subject) {
	ctx, cancel := cancelable(t)
	ch, err := s.Store.Subscribe(ctx)
	must(t, err)
	const surplus = 10
	for i := range store.EventBuffer + surplus {
		must(t, s.Store.Publish(ctx, strconv.Itoa(i)))
	}
	last := strconv.Itoa(store.EventBuffer + surplus - 1)
	count := 0
	for {
		got, ok := receive(t, ch)
		if !ok {
			t.Fatal("closed early")
		}
		count++
		if got == last {
			break
		}
	}
	if count > store.EventBuffer {
		t.Errorf("%d events were waiting, want %d at most", count, store.EventBuffer)
	}
	cancel()
	receiveEnd(t, ch)
}

func eventsEnd(t *testing.T, s Subject) {
	ctx, cancel := cancelable(t)
	ch, err := s.Store.Subscribe(ctx)
	must(t, err)
	cancel()
	receiveEnd(t, ch)
	must(t, s.Store.Publish(t.Context(), "group/one"))
}

func refusals(t *testing.T, s Subject) {
	ctx := t.Context()
	known := func(key, want string, least, most time.Duration) {
		t.Helper()
		reason, left, err := s.Store.Refused(ctx, key)
		must(t, err)
		if reason != want || left < least || left > most {
			t.Errorf("%s: %q for %s, want %q for %s to %s", key, reason, left, want, least, most)
		}
	}
	known("a", "", 0, 0)
	must(t, s.Store.Refuse(ctx, "a", "revoked", time.Minute))
	known("a", "revoked", 59*time.Second, time.Minute)
	known("b", "", 0, 0)
	s.Advance(30 * time.Second)
	known("a", "revoked", 29*time.Second, 30*time.Second)
	must(t, s.Store.Refuse(ctx, "a", "", 2*time.Minute))
	known("a", "", 119*time.Second, 2*time.Minute)
	s.Advance(121 * time.Second)
	known("a", "", 0, 0)
}

// minuteStart moves the clock to the start of a UTC minute.
func minuteStart(s Subject) {
	now := s.Now()
	s.Advance(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
}

func admitted(t *testing.T, s Subject, key string, limit uint32, calls int) int {
	t.Helper()
	n := 0
	for range calls {
		ok, err := s.Store.Allow(t.Context(), key, limit, time.Minute)
		must(t, err)
		if ok {
			n++
		}
	}
	return n
}

func limit(t *testing.T, s Subject) {
	minuteStart(s)
	steps := []struct {
		name    string
		advance time.Duration
		limit   uint32
		calls   int
		want    int
	}{
		{"all of a new window", 0, 5, 4, 4},
		{"up to the limit", 30 * time.Second, 5, 4, 1},
		{"none beyond it", 29 * time.Second, 5, 100, 0},
		{"refused calls did not count", 0, 6, 2, 1},
		{"the next window starts with the UTC minute", time.Second, 5, 9, 5},
		{"nothing with a limit of zero", time.Minute, 0, 3, 0},
	}
	for _, step := range steps {
		s.Advance(step.advance)
		if got := admitted(t, s, "token", step.limit, step.calls); got != step.want {
			t.Errorf("%s: %d admitted, want %d", step.name, got, step.want)
		}
	}
}

func limitKeys(t *testing.T, s Subject) {
	minuteStart(s)
	if a, b := admitted(t, s, "a", 2, 3), admitted(t, s, "b", 2, 3); a != 2 || b != 2 {
		t.Errorf("admitted %d and %d, want 2 and 2", a, b)
	}
}
