package chaos

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

// The first request after the death waits for the agent: it was there a moment ago.
func TestKillKas_ThatHoldsTheAgent_RequestsThroughAnotherGoOnAndItsEntriesExpire(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	if err := ok(ask(soon(t), f, via(other), demo, word)); err != nil {
		t.Fatal(err)
	}
	if _, err := holds.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := ok(ask(soon(t), f, via(other), demo, word)); err != nil {
		t.Errorf("the request after the death: %v", err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %s", took)
	} else {
		t.Logf("the first request after the death took %s", took.Round(time.Millisecond))
	}
	for range 20 {
		if err := ok(ask(soon(t), f, via(other), demo, word)); err != nil {
			t.Errorf("a request after the first: %v", err)
		}
	}
	eventually(t, "what the dead kas announced expires", func(ctx context.Context) error { return gone(ctx, f, holds) })
}

// gone says whether Redis knows of no agent at a kas.
func gone(ctx context.Context, f *fleet.Fleet, k *fleet.Kas) error {
	for _, id := range []int64{demoID, doubleID} {
		urls, err := f.Locations(ctx, id)
		if err != nil {
			return err
		}
		if slices.Contains(urls, k.URL) {
			return fmt.Errorf("agent %d is still said to be at %s", id, k.Name)
		}
	}
	return nil
}

func TestKillAgent_OneOfTwo_RequestsGoOnWithTheOther(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	f.Agents.Only(other.Name)
	if err := f.StartAgent(soon(t), demo+"-1"); err != nil {
		t.Fatal(err)
	}
	f.Agents.Only()
	eventually(t, "both processes are known", func(ctx context.Context) error {
		urls, err := f.Locations(ctx, demoID)
		if err == nil && len(urls) != 2 {
			err = fmt.Errorf("%v", urls)
		}
		return err
	})
	if _, err := f.KillAgent(soon(t), demo); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*fleet.Kas{holds, other} {
		for range 10 {
			started := time.Now()
			if err := ok(ask(soon(t), f, via(k), demo, word)); err != nil {
				t.Errorf("through %s: %v", k.Name, err)
			}
			if took := time.Since(started); took > 5*time.Second {
				t.Errorf("through %s a request took %s", k.Name, took)
			}
		}
	}
}
