package tunnel

import (
	"sync"
	"testing"
	"time"
)

func TestPool_Ahead(t *testing.T) {
	p := &Pool{newest: "a"}
	for _, step := range []struct {
		name string
		do   func()
		want int
	}{
		{"nothing is known", func() {}, 500},
		{"kas is far", func() { p.answered("a", 5*near) }, 500},
		{"a shorter time counts", func() { p.answered("a", near) }, nearAhead},
		{"a longer one does not: kas was busy", func() { p.answered("a", time.Second) }, nearAhead},
		{"the same connection", func() { p.moved("a") }, nearAhead},
		{"another connection", func() { p.moved("b") }, 500},
		{"an answer over the old one", func() { p.answered("a", near) }, 500},
		{"an answer too short for the clock", func() { p.answered("b", 0) }, nearAhead},
	} {
		step.do()
		if got := p.ahead(500); got != step.want {
			t.Errorf("%s: %d streams, want %d", step.name, got, step.want)
		}
	}
	other := &Pool{cfg: PoolConfig{RoundTrip: func() time.Duration { return near }}, trip: time.Second}
	if got := other.ahead(500); got != nearAhead {
		t.Errorf("another call came back soon: %d streams, want %d", got, nearAhead)
	}
	if got := p.ahead(3); got != 3 {
		t.Errorf("%d streams for 3 requests", got)
	}
}

// A burst near kas gets no more streams than it needs, and each of its requests one, also when none of them ends.
func TestPool_BurstNearKas(t *testing.T) {
	const requests = 300
	l := newLine(t)
	p := l.pool(0, echo)
	warm := l.open(l.ctx())
	if _, err := roundTrip(warm, "x"); err != nil {
		t.Fatal(err)
	}
	warm.Finish(false)
	p.mu.Lock()
	p.trip = 1 // of an unloaded machine
	p.mu.Unlock()

	var asking sync.WaitGroup
	found, ctx := make(chan *Tunnel, requests), l.ctx()
	for range requests {
		asking.Go(func() {
			tun, err := l.registry.Find(ctx, agentID, wanted)
			if err == nil {
				err = tun.Start("/"+wanted, nil)
			}
			if err != nil {
				t.Error(err)
				return
			}
			found <- tun
		})
	}
	asking.Wait()
	close(found)
	p.mu.Lock()
	surplus := p.idle + p.active - requests
	p.mu.Unlock()
	if most := nearAhead + minIdle; surplus > most {
		t.Errorf("%d streams too many were opened, at most %d may be", surplus, most)
	}
	for tun := range found {
		tun.Finish(false)
	}
}
