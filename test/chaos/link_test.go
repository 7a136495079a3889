package chaos

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/fleet"
)

// The agent is far away: 200 ms there and back.
func TestDelay_OfTheAgent_CostsOneRoundTripAndNoBandwidth(t *testing.T) {
	f := share(t)
	holds, _ := holder(t, f, doubleID)
	const rtt = 200 * time.Millisecond
	set(t, f.Pods[doubled].Link, badlink.Conditions{RTT: rtt})
	fastest := time.Hour
	for range 5 {
		started := time.Now()
		if err := ok(ask(soon(t), f, via(holds), doubled, "/version")); err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, time.Since(started))
	}
	if fastest < rtt || fastest > 2*rtt {
		t.Errorf("a request takes %s, want a round trip of %s and little more", fastest, rtt)
	}
	const size = 4 << 20
	started := time.Now()
	a := ask(soon(t), f, via(holds), doubled, fmt.Sprintf("/bytes?n=%d", size))
	took := time.Since(started)
	if ok(a) != nil || len(a.body) != size {
		t.Fatalf("%d bytes, %v", len(a.body), ok(a))
	}
	// What a stream may send unread is 1 MiB: that per round trip makes 0.8 s; a chunk of 32 KiB per round trip would take 26 s.
	if took > 8*time.Second {
		t.Errorf("4 MiB took %s", took)
	}
	t.Logf("a request takes %s, 4 MiB take %s", fastest.Round(time.Millisecond), took.Round(time.Millisecond))
}

// 64 KB/s, and somebody loads down something big: others wait for what is under way already, which is bounded by the window of a stream, and
// nobody fails.
func TestNarrow_OfTheAgent_BigAnswerAndSmallOnesAllArrive(t *testing.T) {
	f := share(t)
	set(t, f.Pods[doubled].Link, badlink.Conditions{BytesPerSecond: 64 << 10})
	const size = 256 << 10
	var big answer
	var all sync.WaitGroup
	ctx := soon(t)
	started := time.Now()
	all.Go(func() { big = ask(ctx, f, front(f), doubled, fmt.Sprintf("/bytes?n=%d", size)) })
	eventually(t, "it flows", func(context.Context) error {
		if got := f.Pods[doubled].Link.Bytes(badlink.ToServer); got < 32<<10 {
			return fmt.Errorf("%d bytes", got)
		}
		return nil
	})
	for range 3 {
		began := time.Now()
		if err := ok(ask(ctx, f, front(f), doubled, "/version")); err != nil {
			t.Errorf("a small request: %v", err)
		}
		t.Logf("a small request took %s", time.Since(began).Round(time.Millisecond))
	}
	all.Wait()
	if ok(big) != nil || len(big.body) != size {
		t.Errorf("%d bytes, %v", len(big.body), ok(big))
	}
	if took := time.Since(started); took < 3*time.Second {
		t.Errorf("256 KiB took %s at 64 KiB/s: the link is not narrow", took)
	}
}

// Every connection of the fleet is reset, several times, while requests come.
func TestReset_OfEverything_FleetIsBack(t *testing.T) {
	f := share(t)
	for range 3 {
		for _, k := range f.Kas {
			k.PeerLink.Reset()
			k.RedisLink.Reset()
		}
		for _, pod := range f.Pods {
			pod.Link.Reset()
		}
		f.Agents.Reset()
		for _, k := range f.Kas {
			// It waits until the agent is back.
			if err := ok(ask(soon(t), f, via(k), demo, word)); err != nil {
				t.Errorf("through %s: %v", k.Name, err)
			}
		}
	}
}

// Nobody listens where the agent dials: it tries again and again, and is there soon after somebody does.
func TestRefuse_OfTheAgent_IsBackSoonAfter(t *testing.T) {
	f := share(t)
	link := f.Pods[doubled].Link
	set(t, link, badlink.Conditions{Refuse: true})
	link.Reset()
	eventually(t, "the agent has tried", func(ctx context.Context) error {
		page, err := f.AgentMetrics(ctx, doubled)
		if err != nil {
			return err
		}
		if up, err := fleet.Sample(page, "agentk_connected"); err != nil || up != 0 {
			return fmt.Errorf("agentk_connected is %v, %w", up, err)
		}
		return nil
	})
	set(t, link, badlink.Conditions{})
	started := time.Now()
	if err := ok(ask(soon(t), f, front(f), doubled, "/version")); err != nil {
		t.Errorf("after that: %v", err)
	}
	t.Logf("an answer after %s", time.Since(started).Round(time.Millisecond))
}
