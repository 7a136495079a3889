//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

// The master of Redis dies, and sentinels choose another one: kas follows, nothing fails that needs no Redis, and what is announced is
// there again.
func TestRedis_Failover(t *testing.T) {
	f := start(t, fleet.Config{ControlPlane: cluster, Sentinel: true})
	for _, k := range f.Kas {
		if err := ok(ask(soon(t), f, via(k), demo, word)); err != nil {
			t.Fatal(err)
		}
	}
	master, err := f.Sentinel.Master(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	tr := begin(t, f) // through both kas: of a location that is known, requests go on without Redis
	calm()
	master.Kill()
	eventually(t, "there is another master", func(ctx context.Context) error {
		now, err := f.Sentinel.Master(ctx)
		if err == nil && now == master {
			err = fmt.Errorf("it is still %s", now.Address())
		}
		return err
	})
	for _, k := range f.Kas {
		eventually(t, k.Name+" uses it", func(ctx context.Context) error { return wellAgain(ctx, k) })
	}
	calm()
	tr.end(t)
	// A kas that has never heard of the agent finds it, in the new master.
	started := time.Now()
	for _, k := range f.Kas {
		if _, err := k.Stop(soon(t)); err != nil {
			t.Fatal(err)
		}
		if err := k.Start(soon(t)); err != nil {
			t.Fatal(err)
		}
		if err := ok(ask(soon(t), f, via(k), demo, word)); err != nil {
			t.Errorf("through %s, started anew: %v", k.Name, err)
		}
	}
	t.Logf("both kas were restarted in %s", time.Since(started).Round(time.Millisecond))
}
