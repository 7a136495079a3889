//go:build e2e

// Package middlebox runs the line through what stands between clusters and GitLab in the field, because proxies break long-lived
// connections in ways that no test of our own code shows: a real nginx in front of kas, a real squid in front of agentk, and TLS from
// private certificate authorities. Every part is a real process on loopback.
package middlebox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(kube.Tests(m, kube.Config{}, &cluster))
}

// patience bounds every wait for something that should come by itself. Agents that were refused a few times try again only every twenty
// seconds, and the machine may be busy.
const patience = 3 * time.Minute

// soon is a context for such a wait.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// freePort is a port that nothing listens on now. It is below the range that Linux gives to outgoing connections, so that it stays free
// while the program that uses it is stopped for a moment.
func freePort(t *testing.T) string {
	t.Helper()
	ports, err := line.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// adminAgent is an agent that serves the jobs of one project with all power, since who may do what is not the question here. It is
// started by the test, when the middlebox is up.
func adminAgent(id int64, name, jobsOf string) line.Agent {
	return line.Agent{
		ID: id, Name: name, Project: "acme/" + name, Config: line.CIAccess("{agent: {}}", jobsOf),
		ClusterRole: "cluster-admin", Manual: true,
	}
}

// pairs makes, for every name, an agent and the one job that may use it, which has the agent's id.
func pairs(names ...string) (agents []line.Agent, jobs []line.Job) {
	for i, name := range names {
		id, project := int64(i+1), "acme/jobs-of-"+name
		agents = append(agents, adminAgent(id, name, project))
		jobs = append(jobs, line.Job{ID: id, Project: project})
	}
	return agents, jobs
}

// mark remembers how long an agent's log is, and returns a reader of what comes after.
func mark(l *line.Line, agent string) func() string {
	seen := len(l.AgentLog(agent))
	return func() string { return l.AgentLog(agent)[seen:] }
}

// wantLine waits for a line with all the words in a log, and returns it.
func wantLine(t *testing.T, what string, log func() string, words ...string) string {
	t.Helper()
	var found string
	line.Eventually(soon(t), t, what, func(context.Context) error {
		for text := range strings.Lines(log()) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
				found = text
				return nil
			}
		}
		return fmt.Errorf("no line with %q", words)
	})
	return found
}

// launch starts an agent that is not expected to become ready, and returns the reader of its log.
func launch(t *testing.T, l *line.Line, agent string) func() string {
	t.Helper()
	log := mark(l, agent)
	if err := l.SpawnAgent(agent); err != nil {
		t.Fatal(err)
	}
	return log
}

// connect starts an agent and waits until it is ready.
func connect(t *testing.T, l *line.Line, agent string) {
	t.Helper()
	if err := l.StartAgent(t.Context(), agent); err != nil {
		t.Fatal(err)
	}
}

// adjust changes how agents are started.
func adjust(t *testing.T, l *line.Line, agent string, change func(*line.Agent)) {
	t.Helper()
	if err := l.SetAgent(agent, change); err != nil {
		t.Fatal(err)
	}
}
