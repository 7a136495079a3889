//go:build chaos

package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	// blackholeLasts is longer than either side takes to find out that the other one does not answer: 50 or 55 s until it asks, and 20 s.
	blackholeLasts = 90 * time.Second
	// found is when everybody must have found out, or be served.
	found = blackholeLasts + 30*time.Second
)

// TestBlackhole and its like wait for the same minute, side by side.
func TestBlackholeFor90Seconds_RequestsEndWithAReasonAndTheAgentIsBack(t *testing.T) {
	t.Parallel()
	silence(t, badlink.Blackhole)
}

func TestHalfOpen_AgentHearsNothing(t *testing.T) {
	t.Parallel()
	silence(t, badlink.Conditions{DropToClient: true})
}

func TestHalfOpen_KasHearsNothing(t *testing.T) {
	t.Parallel()
	silence(t, badlink.Conditions{DropToServer: true})
}

func silence(t *testing.T, c badlink.Conditions) {
	cfg := config()
	cfg.Agents = cfg.Agents[2:] // the one of the double
	cfg.Agents = append(cfg.Agents, config().Agents[0])
	f := start(t, cfg)
	before := census(t, f)
	link := f.Pods[demo].Link
	cut := beginWatch(t.Context(), t, f, front(f), demo)
	set(t, link, c)
	began := time.Now()

	// Ten requests that meet the silence. They wait as long as kas has hope, and then have an answer.
	answers := make([]answer, 10)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), found)
			defer cancel()
			answers[i] = ask(ctx, f, via(f.Kas[i%len(f.Kas)]), demo, word)
		})
	}
	// The other agent notices nothing.
	for time.Since(began) < blackholeLasts {
		if err := ok(ask(soon(t), f, front(f), doubled, "/version")); err != nil {
			t.Errorf("the other agent: %v", err)
		}
		time.Sleep(time.Second) // the pace of requests, not a wait
	}
	if page, err := f.AgentMetrics(soon(t), demo); err != nil {
		t.Error(err)
	} else if up, err := fleet.Sample(page, "agentk_connected"); err != nil || up != 0 {
		t.Errorf("after %s of silence agentk_connected is %v, %v", blackholeLasts, up, err)
	}
	all.Wait()
	for i, a := range answers {
		if ok(a) == nil {
			continue
		}
		if reason, err := a.reason(); err != nil {
			t.Errorf("request %d: %v", i, err)
		} else {
			t.Logf("request %d: HTTP status %d: %s", i, a.code, reason)
		}
	}
	t.Logf("the watch ended with %v", await(t, "the watch ends", cut)) // clean or not, a client takes it up again
	set(t, link, badlink.Conditions{})
	healed := time.Now()
	eventually(t, "the agent is back", func(ctx context.Context) error { return ok(ask(ctx, f, front(f), demo, word)) })
	if took := time.Since(healed); took > 45*time.Second {
		t.Errorf("the agent took %s to come back", took)
	}
	t.Logf("back %s after the link", time.Since(healed).Round(time.Millisecond))
	works(t, f)
	f.Settle(t, before)
}

// Two kas stop hearing each other, and both know Redis: requests end with a reason, and those for agents of their own kas are served.
func TestBlackhole_BetweenTwoKas(t *testing.T) {
	t.Parallel()
	f := start(t, config())
	holds, other := holder(t, f, demoID)
	if err := ok(ask(soon(t), f, via(other), demo, word)); err != nil {
		t.Fatal(err)
	}
	before := census(t, f)
	set(t, holds.PeerLink, badlink.Blackhole)
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), found)
	defer cancel()
	done := make(chan answer, 1)
	go func() { done <- ask(ctx, f, via(other), demo, word) }()
	for range 20 {
		if err := ok(ask(soon(t), f, via(holds), demo, word)); err != nil {
			t.Errorf("through the kas that has the agent: %v", err)
		}
	}
	a := <-done
	if ok(a) == nil {
		t.Error("an answer came through a black hole")
	} else if reason, err := a.reason(); err != nil {
		t.Error(err)
	} else {
		t.Logf("HTTP status %d after %s: %s", a.code, time.Since(began).Round(time.Millisecond), reason)
	}
	set(t, holds.PeerLink, badlink.Conditions{})
	eventually(t, "the two hear each other again", func(ctx context.Context) error { return ok(ask(ctx, f, via(other), demo, word)) })
	f.Settle(t, before)
}

// A middlebox forgets what says nothing for 60 s. kas pings every 50 s, so that a quiet watch lives on.
func TestIdleTimeout_OfAMiddlebox_QuietWatchLives(t *testing.T) {
	t.Parallel()
	f := start(t, config())
	before := census(t, f)
	set(t, f.Pods[demo].Link, badlink.Conditions{IdleTimeout: time.Minute})
	const path = watch + "&fieldSelector=metadata.name%3Dafter-silence"
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	response, err := open(ctx, f, front(f), demo, path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("HTTP status %d", response.StatusCode)
	}
	time.Sleep(78 * time.Second) // silence is what is tested
	if err := cluster.Apply(soon(t), "{apiVersion: v1, kind: ConfigMap, metadata: {name: after-silence}}"); err != nil {
		t.Fatal(err)
	}
	var event struct {
		Object struct{ Metadata struct{ Name string } }
	}
	if err := json.NewDecoder(bufio.NewReader(response.Body)).Decode(&event); err != nil || event.Object.Metadata.Name != "after-silence" {
		t.Errorf("event %+v, %v", event, err)
	}
	cancel()
	if got := f.Pods[demo].Link.Accepted(); got != 1 {
		t.Errorf("the agent connected %d times, want once", got)
	}
	f.Settle(t, before)
}

// The maximum age of connections is reached while a session is open: it goes on over the old connection for as long as that may live, while
// everything new takes the next one; and when the old one is cut both ends of the session see the end.
func TestConnectionAge_ReachedDuringASession(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.KasYAML = "agent: {listen: {max_connection_age: 20s}}" // GOAWAY after 4 s, the end 13 s later, each give or take a tenth
	f := start(t, cfg)
	link := f.Pods[doubled].Link
	s := openSession(t, f)
	connections := link.Accepted()
	eventually(t, "the agent has a new connection", func(context.Context) error {
		s.echo(t)
		if err := ok(ask(soon(t), f, front(f), doubled, "/version")); err != nil {
			t.Errorf("a request beside: %v", err)
		}
		if got := link.Accepted(); got <= connections {
			return fmt.Errorf("%d connections", got)
		}
		return nil
	})
	s.echo(t)
	s.end(t)
}
