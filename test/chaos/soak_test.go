//go:build chaos

package chaos

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	// soakHalf is each half of the churn, and churnEvery how often something happens.
	soakHalf   = 15 * time.Minute
	churnEvery = 5 * time.Second
	// rest is how long everybody is left alone before the heaps are compared: the agents' pools of streams, which grow with every burst, shrink
	// over a minute.
	rest = 2 * time.Minute
	// growth is how much larger a heap may be after the second half than after the first; noise, in bytes, is what a single buffer makes.
	growth = 1.05
	noise  = 256 << 10
)

// TestSoak keeps a fleet under churn, all kas and two agentk through all of it, and compares what they hold at rest after a garbage
// collection.
func TestSoak(t *testing.T) {
	if os.Getenv("SOAK") == "" {
		t.Log("SOAK=1 runs this for half an hour")
		return
	}
	f := start(t, config())
	before := census(t, f)
	middle := soak(t, f)
	end := soak(t, f)
	for name := range end {
		t.Logf("%s: heap %.2f MB after the first half, %.2f MB after the second", name, middle[name]/1e6, end[name]/1e6)
		if end[name] > middle[name]*growth && end[name] > middle[name]+noise {
			t.Errorf("the heap of %s has grown from %.0f to %.0f bytes over the second half", name, middle[name], end[name])
		}
	}
	works(t, f)
	f.Settle(t, before)
}

// soak is one half: churn under traffic, then rest, then the smallest heaps of a few looks.
func soak(t *testing.T, f *fleet.Fleet) map[string]float64 {
	t.Helper()
	tr := begin(t, f)
	tick := time.NewTicker(churnEvery)
	defer tick.Stop()
	started := time.Now()
	for turn := 0; time.Since(started) < soakHalf; turn++ {
		<-tick.C
		disturb(t, f, turn)
	}
	if f.AgentRuns(demo + "-1") {
		if _, err := f.StopAgent(soon(t), demo+"-1"); err != nil {
			t.Error(err)
		}
	}
	works(t, f)
	tr.mu.Lock()
	tr.failed, tr.ended = nil, map[string]int{} // of those, other tests speak
	tr.mu.Unlock()
	calm()
	tr.end(t)
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
	switch turn % 6 {
	case 0:
		err = f.StartAgent(soon(t), demo+"-1")
	case 1:
		f.Pods[demo+"-1"].Link.Reset()
	case 2:
		_, err = f.KillAgent(soon(t), demo+"-1")
	case 3:
		f.Kas[turn%2].PeerLink.Reset()
	case 4:
		f.Kas[turn%2].RedisLink.Reset()
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
