package chaos

import (
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
	"gitlab.com/agentk/agentk/test/line"
)

// late is how long the double takes for an answer, inFlightNow how many wait for theirs when somebody is told to stop.
const (
	late        = "/late?after=3s"
	inFlightNow = 50
)

// stopAmid stops somebody while requests are in flight: none of them may be lost, and the end comes in order.
func stopAmid(t *testing.T, f *fleet.Fleet, base string, stop func() (line.Exit, error)) {
	t.Helper()
	answers := inFlight(t, f, base, late, inFlightNow)
	exit, err := stop()
	if err != nil {
		t.Fatal(err)
	}
	if exit.Code != 0 {
		t.Errorf("exit code %d", exit.Code)
	}
	t.Logf("gone after %s", exit.After.Round(time.Millisecond))
	for i, a := range answers() {
		if err := ok(a); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

func TestStopKas_ThatRoutesRequestsInFlight_AllAreAnswered(t *testing.T) {
	f := share(t)
	_, other := holder(t, f, doubleID)
	stopAmid(t, f, via(other), func() (line.Exit, error) { return other.Stop(soon(t)) })
}

func TestStopKas_ThatHoldsTheAgentOfRequestsInFlight_AllAreAnswered(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, doubleID)
	stopAmid(t, f, via(other), func() (line.Exit, error) { return holds.Stop(soon(t)) })
	if err := ok(ask(soon(t), f, via(other), doubled, "/version")); err != nil {
		t.Errorf("the agent has moved: %v", err)
	}
}

func TestStopAgent_WithRequestsInFlight_AllAreAnswered(t *testing.T) {
	f := share(t)
	stopAmid(t, f, front(f), func() (line.Exit, error) { return f.StopAgent(soon(t), doubled) })
}
