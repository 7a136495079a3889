//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	// rest is how long everybody is left alone before the heaps are looked at: connections to the API server wait 20 seconds for more, and
	// the agents' pools of streams, which grow with every burst, shrink over a minute.
	rest = 90 * time.Second
	// looks is how often each heap is looked at then, and lookEvery the time between: what happens at a moment, such as a lookup in Redis, a
	// page of metrics, a registration that is renewed, is in few of them, and the median has none of it.
	looks     = 7
	lookEvery = 5 * time.Second
	// profileRate is the mean number of bytes between two allocations that the profiles know. Go's own, 512 KB, is more than what is looked for.
	profileRate = 4 << 10
	// growth is how much larger the median heap may be after the second half than after the first. Less than slack, in bytes, is noise: a
	// single buffer, or what a map has grown by. It has to be less than what the requests of a half would make if each left the smallest of
	// all objects behind, of minObject bytes.
	growth    = 1.05
	slack     = 128 << 10
	minObject = 16
)

// heaps are what those hold that live as long as the test, by their names.
type heaps struct {
	taken    time.Time
	looks    map[string][]float64 // bytes
	profiles map[string]string
}

func (h heaps) medians() map[string]float64 {
	all := map[string]float64{}
	for name, bytes := range h.looks {
		all[name] = median(bytes)
	}
	return all
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

// heapsAtRest brings the fleet to a state that is the same whenever it is called, and looks. Which kas the agents are at is such a state: an
// agent is worth more of a heap than a leak of many hours.
func heapsAtRest(t *testing.T, f *fleet.Fleet) heaps {
	t.Helper()
	first := f.Kas[0]
	f.Agents.Only(first.Name)
	defer f.Agents.Only()
	for _, agent := range []string{demo, doubled} {
		f.Pods[agent].Link.Reset()
	}
	for _, id := range []int64{demoID, doubleID} {
		eventually(t, fmt.Sprintf("agent %d is at %s alone", id, first.Name), func(ctx context.Context) error {
			urls, err := f.Locations(ctx, id)
			if err == nil && !slices.Equal(urls, []string{first.URL}) {
				err = fmt.Errorf("it is at %v", urls)
			}
			return err
		})
	}
	works(t, f)
	time.Sleep(rest)
	h := heaps{taken: time.Now(), looks: map[string][]float64{}, profiles: map[string]string{}}
	for range looks {
		time.Sleep(lookEvery)
		for name, bytes := range heapsOf(t, f) {
			h.looks[name] = append(h.looks[name], bytes)
		}
	}
	for name, page := range pages(f) {
		var err error
		if h.profiles[name], err = page(soon(t), "/debug/pprof/heap?gc=1"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return h
}

// pages are those of everybody who lives as long as the test.
func pages(f *fleet.Fleet) map[string]func(ctx context.Context, path string) (string, error) {
	all := map[string]func(context.Context, string) (string, error){
		"agentk-" + doubled: func(ctx context.Context, path string) (string, error) { return f.AgentPage(ctx, doubled, path) },
		"agentk-" + demo:    func(ctx context.Context, path string) (string, error) { return f.AgentPage(ctx, demo, path) },
	}
	for _, k := range f.Kas {
		all[k.Name] = k.Page
	}
	return all
}

// heapsOf collects garbage twice, since pools of buffers survive one collection, and measures.
func heapsOf(t *testing.T, f *fleet.Fleet) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for name, page := range pages(f) {
		for range 2 {
			// With debug the page says what is left right after the collection; metrics would be a moment and some garbage later.
			text, err := page(soon(t), "/debug/pprof/heap?gc=1&debug=1")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, text, _ = strings.Cut(text, "# HeapAlloc = ")
			text, _, _ = strings.Cut(text, "\n")
			if all[name], err = strconv.ParseFloat(text, 64); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return all
}

// compare logs all looks, and how fast what they show grows.
func compare(t *testing.T, middle, end heaps) {
	t.Helper()
	hours := end.taken.Sub(middle.taken).Hours()
	for _, name := range slices.Sorted(maps.Keys(end.looks)) {
		was, is := median(middle.looks[name]), median(end.looks[name])
		t.Logf("%s: median heap %.0f KB after the first half, %.0f KB after the second: %+.1f %%, %+.0f KB an hour; all looks, in KB: %.0f, then %.0f",
			name, was/1e3, is/1e3, 100*(is-was)/was, (is-was)/1e3/hours, kilo(middle.looks[name]), kilo(end.looks[name]))
	}
}

func kilo(bytes []float64) []float64 {
	all := slices.Clone(bytes)
	for i := range all {
		all[i] /= 1e3
	}
	return all
}

// moreThan says where the memory was allocated that one profile has more than another, the most first.
func moreThan(t *testing.T, was, is string) string {
	t.Helper()
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "was"), filepath.Join(dir, "is")}
	for i, profile := range []string{was, is} {
		if err := os.WriteFile(files[i], []byte(profile), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(soon(t), "go", "tool", "pprof", "-sample_index=inuse_space", "-top", "-nodecount=20", "-diff_base", files[0], files[1]).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("go tool pprof: %v\n%s", err, out)
	}
	return string(out)
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

// One look at a bad moment says nothing, a heap that is larger in most of them does.
func TestMedian(t *testing.T) {
	for want, of := range map[float64][]float64{2: {1, 9, 2, 2, 2}, 5: {5}, 7: {7, 1, 8, 7, 1, 9, 7}} {
		if got := median(of); got != want {
			t.Errorf("%v: %v, want %v", of, got, want)
		}
	}
}
