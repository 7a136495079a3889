package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/fleet"
)

// recovery is how long requests may fail after a connection was cut: ten times what it takes.
const recovery = 20 * time.Second

// place is where a connection is cut.
type place struct {
	name string
	way  badlink.Direction
	at   badlink.Place
}

// TestCut_OnTheWayToTheAgent cuts amid what the protocols consist of, while requests come one after the other. Each is answered, or told
// that it is not; what looks like an answer is one; the agent is back at once.
func TestCut_OnTheWayToTheAgent(t *testing.T) {
	f := share(t)
	for _, p := range []place{
		{"WebSocketHeaderFromKas", badlink.ToClient, badlink.WebSocketHeader},
		{"WebSocketHeaderFromAgent", badlink.ToServer, badlink.WebSocketHeader},
		{"HEADERSFromKas", badlink.ToClient, badlink.Headers},
		{"HEADERSFromAgent", badlink.ToServer, badlink.Headers},
		{"MessageFromKas", badlink.ToClient, badlink.Message},
		{"MessageFromAgent", badlink.ToServer, badlink.Message},
	} {
		t.Run(p.name, func(t *testing.T) {
			before := dials(t, f)
			cutWhileAsking(t, f, f.Pods[demo].Link, p, front(f))
			eventually(t, "metrics of the agent", func(context.Context) error {
				if after := dials(t, f); after <= before {
					return fmt.Errorf("they count %v connections, as before", after)
				}
				return nil
			})
		})
	}
}

// TestCut_BetweenTwoKas does the same to the hop from one kas to another.
func TestCut_BetweenTwoKas(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	for _, p := range []place{
		{"HEADERSFromRouting", badlink.ToServer, badlink.Headers},
		{"HEADERSFromGateway", badlink.ToClient, badlink.Headers},
		{"MessageFromRouting", badlink.ToServer, badlink.Message},
		{"MessageFromGateway", badlink.ToClient, badlink.Message},
	} {
		t.Run(p.name, func(t *testing.T) { cutWhileAsking(t, f, holds.PeerLink, p, via(other)) })
	}
}

// dials is how often the agent has connected, by its own account.
func dials(t *testing.T, f *fleet.Fleet) float64 {
	t.Helper()
	page, err := f.AgentMetrics(soon(t), demo)
	if err != nil {
		t.Fatal(err)
	}
	return sum(t, page, "gitlab_kas_tunnel_connections_total")
}

func cutWhileAsking(t *testing.T, f *fleet.Fleet, link *badlink.Link, p place, base string) {
	t.Helper()
	cut, err := link.Cut(p.way, p.at, 3)
	if err != nil {
		t.Fatal(err)
	}
	made := func() bool {
		select {
		case <-cut:
			return true
		default:
			return false
		}
	}
	failed := 0
	var last answer
	eventually(t, "the cut is made", func(ctx context.Context) error {
		last = ask(ctx, f, base, demo, word)
		if err := complete(last); err != nil {
			t.Errorf("while the cut is made: %v", err)
		}
		if ok(last) != nil {
			failed++
		}
		if !made() {
			return fmt.Errorf("not yet; last answer %d, %v", last.code, last.err)
		}
		return nil
	})
	started := time.Now()
	for ok(last) != nil && time.Since(started) < recovery {
		if last = ask(soon(t), f, base, demo, word); ok(last) != nil {
			failed++
		}
	}
	if ok(last) != nil {
		t.Fatalf("requests still fail %s after the cut: %v", recovery, ok(last))
	}
	// They come one after the other: the cut can only have met one of them.
	if failed > 1 {
		t.Errorf("%d requests failed, want one at most", failed)
	}
}
