package faults

import (
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// graceText is the grace period of daemons that are told to stop, as configuration; stopLimit is when they must be gone: many times
	// that, for a machine that is busy, and still less than any other timer of the way down would take.
	graceText = "1s"
	stopLimit = 9 * time.Second
)

func TestStopKas_WithAnOpenWatch_GoneWithinItsGracePeriod(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) {
		c.ExtraKasYAML = "agent: {kubernetes_api: {listen: {shutdown_grace_period: " + graceText + "}}}"
	})
	watch := openWatch(t, l)
	exit, err := l.StopKas(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if exit.Code != 0 || exit.After > stopLimit {
		t.Errorf("kas ended with code %d after %s, want 0 within %s", exit.Code, exit.After, stopLimit)
	}
	if err := await(t, "the watch ends", watch); err != nil {
		t.Errorf("the watch ended with %v; want it in order, as at an API server that stops", err)
	}
}

func TestStopAgent_WithAnOpenWatch_GoneWithinItsGracePeriod(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Args = []string{"--shutdown-grace-period", graceText} })
	watch := openWatch(t, l)
	exit, err := l.StopAgent(soon(t), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if exit.Code != 0 || exit.After > stopLimit {
		t.Errorf("agentk ended with code %d after %s, want 0 within %s", exit.Code, exit.After, stopLimit)
	}
	if err := await(t, "the watch ends", watch); err != nil {
		t.Errorf("the watch ended with %v; want it in order, as at an API server that stops", err)
	}
	expectKasIdle(t, l)
}

func TestStop_WithNothingToDo_IsNotHeldUpByGracePeriods(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) {
		c.ExtraKasYAML = "agent: {kubernetes_api: {listen: {shutdown_grace_period: 3600s}}}"
		c.Agents[0].Args = []string{"--shutdown-grace-period", "1h"}
	})
	for name, stop := range map[string]func() (line.Exit, error){
		"agentk": func() (line.Exit, error) { return l.StopAgent(soon(t), "demo") },
		"kas":    func() (line.Exit, error) { return l.StopKas(soon(t)) },
	} {
		exit, err := stop()
		if err != nil {
			t.Fatal(err)
		}
		if exit.Code != 0 || exit.After > stopLimit {
			t.Errorf("%s ended with code %d after %s, want 0 within %s", name, exit.Code, exit.After, stopLimit)
		}
	}
}
