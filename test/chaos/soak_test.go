//go:build chaos

package chaos

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	soakLasts = 30 * time.Minute
	// sampleEvery is how often heaps are looked at, churnEvery how often something happens.
	sampleEvery = 20 * time.Second
	churnEvery  = 5 * time.Second
	// growth is how much a heap may be larger at the end than in the middle; noise, in bytes, is what does not count: buffers of the requests
	// that are under way when somebody looks.
	growth = 1.05
	noise  = 1 << 20
)

// TestSoak keeps a fleet under churn, all kas and one agentk through all of it, and looks at what they hold after a garbage collection.
func TestSoak(t *testing.T) {
	if os.Getenv("SOAK") == "" {
		t.Log("SOAK=1 runs this for half an hour")
		return
	}
	f := start(t, config())
	before := census(t, f)
	tr := begin(t, f)
	heaps := map[string][]float64{}
	started := time.Now()
	churn, sample := time.NewTicker(churnEvery), time.NewTicker(sampleEvery)
	defer churn.Stop()
	defer sample.Stop()
	for turn := 0; time.Since(started) < soakLasts; {
		select {
		case <-churn.C:
			disturb(t, f, turn)
			turn++
		case <-sample.C:
			for name, bytes := range heapsOf(t, f) {
				heaps[name] = append(heaps[name], bytes)
			}
		}
	}
	tr.mu.Lock()
	tr.failed, tr.ended = nil, map[string]int{} // of those, other tests speak
	tr.mu.Unlock()
	calm()
	tr.end(t)
	for name, samples := range heaps {
		middle, end := around(samples, len(samples)/2), around(samples, len(samples))
		t.Logf("%s: heap %.2f MB in the middle, %.2f MB at the end", name, middle/1e6, end/1e6)
		if end > middle*growth && end > middle+noise {
			t.Errorf("the heap of %s has grown from %.0f to %.0f bytes over the second half", name, middle, end)
		}
	}
	if f.AgentRuns(demo + "-1") {
		if _, err := f.StopAgent(soon(t), demo+"-1"); err != nil {
			t.Error(err)
		}
	}
	works(t, f)
	f.Settle(t, before)
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

// around is the median of the tenth of samples before one.
func around(samples []float64, end int) float64 {
	tenth := slices.Clone(samples[max(0, end-max(1, len(samples)/10)):end])
	slices.Sort(tenth)
	return tenth[len(tenth)/2]
}
