//go:build chaos

package chaos

import (
	"fmt"
	"os"
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
)

// TestSoak keeps a fleet under churn, all kas and two agentk through all of it, and compares what they hold at rest after a garbage
// collection.
func TestSoak(t *testing.T) {
	length := soakLength(t)
	if length == 0 {
		t.Log("SOAK=1 runs this for half an hour")
		return
	}
	cfg := config()
	cfg.Env = []string{fmt.Sprintf("GODEBUG=memprofilerate=%d", profileRate)}
	f := start(t, cfg)
	before := census(t, f)
	churn(t, f, time.Duration(warmUp*float64(length)))
	churn(t, f, length/2)
	middle := heapsAtRest(t, f)
	answered := churn(t, f, length/2)
	end := heapsAtRest(t, f)
	compare(t, middle, end)
	if err := grown(middle.medians(), end.medians(), answered); err != nil {
		t.Error(err)
		for name := range end.looks {
			t.Logf("what %s holds more than in the middle:\n%s", name, moreThan(t, middle.profiles[name], end.profiles[name]))
		}
	}
	works(t, f)
	f.Settle(t, before)
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
