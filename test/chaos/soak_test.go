//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	// soakTime is how long the churn lasts with SOAK=1, both halves together; any other value of SOAK is a duration. warmUp is the part of
	// it by which it is preceded, until everything that is kept for later, such as streams, connections and buffers, has been needed once.
	soakTime = 30 * time.Minute
	warmUp   = 0.1
	// churnEvery is how often something happens.
	churnEvery = 5 * time.Second
	// rest is how long everybody is left alone before the heaps are compared: connections to the API server wait 20 seconds for more, and
	// the agents' pools of streams, which grow with every burst, shrink over a minute.
	rest = 2 * time.Minute
	// growth is how much larger a heap may be after the second half than after the first. Less than slack, in bytes, is noise: a single
	// buffer, or what a map has grown by. It has to be less than what the requests of a half would make if each left the smallest of all
	// objects behind, of minObject bytes.
	growth    = 1.05
	slack     = 128 << 10
	minObject = 16
)

// TestSoak keeps a fleet under churn, all kas and two agentk through all of it, and compares what they hold at rest after a garbage
// collection.
func TestSoak(t *testing.T) {
	length := soakLength(t)
	if length == 0 {
		t.Log("SOAK=1 runs this for half an hour")
		return
	}
	f := start(t, config())
	before := census(t, f)
	churn(t, f, time.Duration(warmUp*float64(length)))
	churn(t, f, length/2)
	middle := heapsAtRest(t, f)
	answered := churn(t, f, length/2)
	end := heapsAtRest(t, f)
	for name := range end {
		t.Logf("%s: heap %.0f KB after the first half, %.0f KB after the second", name, middle[name]/1e3, end[name]/1e3)
	}
	if err := grown(middle, end, answered); err != nil {
		t.Error(err)
	}
	works(t, f)
	f.Settle(t, before)
}

// grown says which heaps, by the names of their owners, have grown over a half in which so many requests were answered.
func grown(middle, end map[string]float64, answered int) error {
	var found []error
	if answered*minObject <= slack {
		found = append(found, fmt.Errorf("%d requests in the second half are too few: one object left behind by each would not be seen", answered))
	}
	for name, is := range end {
		if was := middle[name]; is > was*growth && is > was+slack {
			found = append(found, fmt.Errorf("the heap of %s has grown from %.0f to %.0f bytes over the second half, %.1f for each request",
				name, was, is, (is-was)/float64(answered)))
		}
	}
	return errors.Join(found...)
}

func TestGrown(t *testing.T) {
	const requests = 180_000 // of fifteen minutes
	for _, tt := range []struct {
		name     string
		was, is  float64
		answered int
		bad      bool
	}{
		{"as before", 2.5e6, 2.5e6, requests, false},
		{"less", 2.5e6, 2.4e6, requests, false},
		{"a buffer more", 2.5e6, 2.5e6 + 64<<10, requests, false},
		{"the smallest object for each request", 2.5e6, 2.5e6 + requests*minObject, requests, true},
		{"the smallest object for each request, large heap", 50e6, 50e6 + requests*minObject, requests, true},
		{"six percent", 2.5e6, 2.5e6 * 1.06, requests, true},
		{"a kibibyte for each disturbance", 2.5e6, 2.5e6 + 180<<10, requests, true},
		{"too few requests to say anything", 2.5e6, 2.5e6, slack / minObject, true},
	} {
		if err := grown(map[string]float64{"kas": tt.was}, map[string]float64{"kas": tt.is}, tt.answered); (err != nil) != tt.bad {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// soakLength is 0 without SOAK.
func soakLength(t *testing.T) time.Duration {
	t.Helper()
	switch text := os.Getenv("SOAK"); text {
	case "":
		return 0
	case "1":
		return soakTime
	default:
		length, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("SOAK must be 1 or a duration: %v", err)
		}
		return length
	}
}

// churn disturbs the fleet under traffic, tells every minute how everybody is, and returns how many requests were answered.
func churn(t *testing.T, f *fleet.Fleet, length time.Duration) int {
	t.Helper()
	tr := begin(t, f)
	tick := time.NewTicker(churnEvery)
	defer tick.Stop()
	started := time.Now()
	for turn := 0; time.Since(started) < length; turn++ {
		<-tick.C
		disturb(t, f, turn)
		if turn%12 == 11 {
			tell(t, f)
		}
	}
	if f.AgentRuns(demo + "-1") {
		if _, err := f.StopAgent(soon(t), demo+"-1"); err != nil {
			t.Error(err)
		}
	}
	works(t, f)
	tr.mu.Lock()
	answered := tr.total() - len(tr.failed)
	tr.failed, tr.ended = nil, map[string]int{} // of those, other tests speak
	tr.mu.Unlock()
	calm()
	tr.end(t)
	return answered
}

// tell logs what everybody holds in the middle of it all.
func tell(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	heaps := heapsOf(t, f)
	now, err := f.Take(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, bytes := range heaps {
		t.Logf("%s: heap %.0f KB, %+v", name, bytes/1e3, now.Daemons[name])
	}
}

// heapsAtRest are the smallest of a few looks after a rest.
func heapsAtRest(t *testing.T, f *fleet.Fleet) map[string]float64 {
	t.Helper()
	time.Sleep(rest)
	heaps := heapsOf(t, f)
	for range 4 {
		for name, bytes := range heapsOf(t, f) {
			heaps[name] = min(heaps[name], bytes)
		}
	}
	return heaps
}

// disturb does one of the things that happen.
func disturb(t *testing.T, f *fleet.Fleet, turn int) {
	t.Helper()
	var err error
	k := f.Kas[turn/6%2]
	switch turn % 6 {
	case 0:
		err = f.StartAgent(soon(t), demo+"-1")
	case 1:
		f.Pods[demo+"-1"].Link.Reset()
	case 2:
		_, err = f.KillAgent(soon(t), demo+"-1")
	case 3:
		k.PeerLink.Reset()
	case 4:
		k.RedisLink.Reset()
	case 5:
		f.Pods[doubled].Link.Reset()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// heapsOf collects garbage and measures, in those that live as long as the test.
func heapsOf(t *testing.T, f *fleet.Fleet) map[string]float64 {
	t.Helper()
	pages := map[string]func(context.Context, string) (string, error){
		"agentk-" + doubled: func(ctx context.Context, path string) (string, error) { return f.AgentPage(ctx, doubled, path) },
		"agentk-" + demo:    func(ctx context.Context, path string) (string, error) { return f.AgentPage(ctx, demo, path) },
	}
	for _, k := range f.Kas {
		pages[k.Name] = k.Page
	}
	heaps := map[string]float64{}
	for name, page := range pages {
		// With debug the page says what is left right after the collection; metrics would be a moment and some garbage later.
		text, err := page(soon(t), "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, text, _ = strings.Cut(text, "# HeapAlloc = ")
		text, _, _ = strings.Cut(text, "\n")
		if heaps[name], err = strconv.ParseFloat(text, 64); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return heaps
}
