//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// restLimit is how long the daemons may take to come to rest: kas retires parked streams that the busiest moment left after a minute.
	restLimit = 4 * time.Minute
	// goroutineSlack is how many more goroutines than before a daemon may have at rest, for a kept-alive connection or two.
	goroutineSlack = 10
)

// goroutines are how many each daemon has.
type goroutines struct{ kas, agent int }

// atRest waits until no stream of the tunnel is busy and both daemons have about as many goroutines as before. A leak of one per
// request or per stream would show after the many of these tests.
func atRest(before goroutines) error {
	ctx, cancel := context.WithTimeout(context.Background(), restLimit)
	defer cancel()
	return line.Wait(ctx, func(ctx context.Context) error {
		ctx = context.WithoutCancel(ctx) // the last answer tells more than that the time was up
		busy, err := busyStreams(ctx)
		if err != nil {
			return err
		}
		if busy != 0 {
			return fmt.Errorf("%d streams of the tunnel are still busy", busy)
		}
		now, err := countGoroutines(ctx)
		if err != nil {
			return err
		}
		if now.kas > before.kas+goroutineSlack || now.agent > before.agent+goroutineSlack {
			return fmt.Errorf("goroutines of the daemons: %+v, before the tests %+v", now, before)
		}
		return nil
	})
}

// quietLogs says whether a daemon met with something that it takes for an error of its own. No test here gives it reason to.
func quietLogs() error {
	for name, log := range ci.Logs() {
		for entry := range strings.Lines(log) {
			if strings.Contains(entry, `"level":"error"`) || strings.HasPrefix(entry, "panic:") {
				return fmt.Errorf("%s logged: %s", name, entry)
			}
		}
	}
	return nil
}

// busyStreams is how many streams of the tunnel carry a request now.
func busyStreams(ctx context.Context) (int, error) {
	page, err := ci.KasMetrics(ctx)
	if err != nil {
		return 0, err
	}
	return metric(page, `kas_tunnels{state="busy"}`)
}

func countGoroutines(ctx context.Context) (goroutines, error) {
	kas, err := ci.KasMetrics(ctx)
	if err != nil {
		return goroutines{}, err
	}
	agentk, err := ci.AgentMetrics(ctx, agent)
	if err != nil {
		return goroutines{}, err
	}
	var g goroutines
	if g.kas, err = metric(kas, "go_goroutines"); err != nil {
		return goroutines{}, err
	}
	g.agent, err = metric(agentk, "go_goroutines")
	return g, err
}

func metric(page, name string) (int, error) {
	value, found := line.Metric(page, name)
	if !found {
		return 0, fmt.Errorf("no metric %s", name)
	}
	return strconv.Atoi(value)
}
