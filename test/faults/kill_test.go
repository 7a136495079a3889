package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// configMaps is what watches watch.
	configMaps = "/api/v1/namespaces/default/configmaps?watch=1"
	// moreGoroutines is how many goroutines a daemon may have more after a fault: of connections that are just being opened, of timers.
	moreGoroutines = 15
	// firstRetry is the longest pause before the first attempt to get back to kas.
	firstRetry = 250 * time.Millisecond
)

// hold makes the double keep requests waiting for as long as anybody wants their answer. The channel tells of each.
func (d *double) hold(t *testing.T) (path string, arrived <-chan struct{}, gone <-chan struct{}) {
	t.Helper()
	in, out := make(chan struct{}, 10), make(chan struct{}, 10)
	path = d.handle(t, func(_ http.ResponseWriter, r *http.Request) {
		in <- struct{}{}
		<-r.Context().Done()
		out <- struct{}{}
	})
	return path, in, out
}

// withDouble makes the one agent of a line use the double.
func withDouble(d *double) func(*line.Config) {
	return func(c *line.Config) { c.Agents[0].Args = d.args() }
}

func TestKillAgent_BeforeTheHeader_ClientGetsAStatusThatNamesTheAgent(t *testing.T) {
	t.Parallel()
	d := useDouble(t)
	l := demoLine(t, withDouble(d))
	before := goroutines(t, l)
	path, arrived, gone := d.hold(t)
	done := inBackground(t, l, "demo", request{path: path})
	await(t, "the request reaches the cluster", arrived)
	if _, err := l.KillAgent(soon(t), "demo"); err != nil {
		t.Fatal(err)
	}
	r := await(t, "the client has its answer", done)
	if r.err != nil {
		t.Fatal(r.err)
	}
	if message := r.refusal(t, http.StatusBadGateway, ""); !strings.Contains(message, "agent disconnected") {
		t.Errorf("message %q does not say that the agent is gone", message)
	}
	if entry := logged(t, l.KasLog, "Kubernetes API request", path); entry["hop"] != "agent" {
		t.Errorf("kas' log names hop %v, want the agent: %v", entry["hop"], entry)
	}
	await(t, "the cluster's side of the request ends", gone)
	expectRecovered(t, l, before)
}

func TestKillAgent_DuringAWatch_EndsAsAtAnAPIServerThatStops(t *testing.T) {
	t.Parallel()
	l := demoLine(t, nil)
	before := goroutines(t, l)
	watch := openWatch(t, l)
	if _, err := l.KillAgent(soon(t), "demo"); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the watch ends", watch); err != nil {
		t.Errorf("the watch ended with %v; want it in order", err)
	}
	expectRecovered(t, l, before)
}

func TestKillKas_BeforeTheHeader_ClientGetsNoAnswerAndAgentIsBack(t *testing.T) {
	t.Parallel()
	d := useDouble(t)
	l := demoLine(t, withDouble(d))
	before := goroutines(t, l)
	path, arrived, gone := d.hold(t)
	done := inBackground(t, l, "demo", request{path: path})
	await(t, "the request reaches the cluster", arrived)
	if _, err := l.KillKas(soon(t)); err != nil {
		t.Fatal(err)
	}
	if r := await(t, "the client's request ends", done); r.err == nil {
		t.Errorf("the client has an answer from a dead kas: %d %s", r.code, r.body)
	}
	await(t, "the cluster's side of the request ends", gone)
	expectAgentBack(t, l, before)
}

func TestKillKas_DuringAWatch_AnswerNeverLooksCompleteAndAgentIsBack(t *testing.T) {
	t.Parallel()
	l := demoLine(t, nil)
	before := goroutines(t, l)
	watch := openWatch(t, l)
	if _, err := l.KillKas(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the watch ends", watch); err == nil {
		t.Error("the watch of a killed kas ended as if it were complete")
	}
	expectAgentBack(t, l, before)
}

// openWatch starts a watch and returns when its header is there. The channel tells how the body ended; nil is a clean end.
func openWatch(t *testing.T, l *line.Line) <-chan error {
	t.Helper()
	response, err := send(soon(t), l, "demo", request{path: configMaps})
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("watch: HTTP status %d", response.StatusCode)
	}
	done := make(chan error, 1)
	go func() {
		defer response.Body.Close()
		_, err := io.Copy(io.Discard, response.Body)
		done <- err
	}()
	return done
}

// census counts the goroutines of both daemons.
type census struct{ kas, agent float64 }

func goroutines(t *testing.T, l *line.Line) census {
	t.Helper()
	if a := mustDo(t, l, "demo", request{path: "/version"}); a.code != http.StatusOK {
		t.Fatalf("GET /version: %d %s", a.code, a.body)
	}
	expectIdle(t, l, "demo")
	var c census
	for page, into := range map[string]*float64{metricsOf(t, l.KasMetrics): &c.kas, metricsOf(t, agentMetrics(l)): &c.agent} {
		var err error
		if *into, err = sample(page, "go_goroutines"); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func agentMetrics(l *line.Line) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) { return l.AgentMetrics(ctx, "demo") }
}

func metricsOf(t *testing.T, page func(context.Context) (string, error)) string {
	t.Helper()
	text, err := page(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// expectRecovered starts the killed agent again and waits until the line is as it was before.
func expectRecovered(t *testing.T, l *line.Line, before census) {
	t.Helper()
	if err := l.StartAgent(soon(t), "demo"); err != nil {
		t.Fatal(err)
	}
	expectAsBefore(t, l, before)
}

// expectAgentBack starts the killed kas again, and waits until the agent is back by itself and the line is as it was before.
func expectAgentBack(t *testing.T, l *line.Line, before census) {
	t.Helper()
	const lost = "Disconnected from gRPC server"
	awaitLog(t, l, lost)
	entry := logged(t, func() string { return l.AgentLog("demo") }, lost, "")
	next, err := durationOf(entry["next_attempt_in"])
	if err != nil || next <= 0 || next > firstRetry {
		t.Errorf("the next attempt is said to come in %v (%v), want at most %s: %v", next, err, firstRetry, entry)
	}
	if entry["reason"] == nil {
		t.Errorf("no reason why the connection is gone: %v", entry)
	}
	started := time.Now()
	if err := l.StartKas(soon(t)); err != nil {
		t.Fatal(err)
	}
	expectAsBefore(t, l, before)
	t.Logf("the line works again %s after the start of kas", time.Since(started).Round(time.Millisecond))
}

func expectAsBefore(t *testing.T, l *line.Line, before census) {
	t.Helper()
	if a := mustDo(t, l, "demo", request{path: "/version"}); a.code != http.StatusOK {
		t.Errorf("GET /version after the fault: %d %s", a.code, a.body)
	}
	expectIdle(t, l, "demo")
	line.Eventually(soon(t), t, "goroutines are gone", func(ctx context.Context) error {
		kas, err := l.KasMetrics(ctx)
		if err != nil {
			return err
		}
		agentk, err := l.AgentMetrics(ctx, "demo")
		if err != nil {
			return err
		}
		return errors.Join(
			expectSample(kas, "go_goroutines", 0, before.kas+moreGoroutines),
			expectSample(agentk, "go_goroutines", 0, before.agent+moreGoroutines),
		)
	})
}

// logged waits for a JSON line of a log with that message which holds a text, and returns the last one: what is told elsewhere first, in
// an answer or a metric, is logged a moment later.
func logged(t *testing.T, log func() string, message, text string) map[string]any {
	t.Helper()
	var found map[string]any
	line.Eventually(soon(t), t, "the log tells", func(context.Context) error {
		for entry := range strings.Lines(log()) {
			var fields map[string]any
			if strings.Contains(entry, text) && json.Unmarshal([]byte(entry), &fields) == nil && fields["msg"] == message {
				found = fields
			}
		}
		if found == nil {
			return fmt.Errorf("no line %q about %q", message, text)
		}
		return nil
	})
	return found
}

// durationOf reads a duration as the log has it: seconds or Go's notation.
func durationOf(v any) (time.Duration, error) {
	switch v := v.(type) {
	case string:
		return time.ParseDuration(v)
	case float64:
		return time.Duration(v * float64(time.Second)), nil
	default:
		return 0, fmt.Errorf("%v is no duration", v)
	}
}
