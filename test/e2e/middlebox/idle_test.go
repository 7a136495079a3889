//go:build e2e

package middlebox

import (
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// idle is longer than the 60 s after which both nginx and squid, as configured here, cut a connection that says nothing. kas pings
// every 50 s.
const idle = 78 * time.Second

// quiet is a watch through a middlebox on which nothing happens, by the one job of an agent with the same number.
type quiet struct {
	line  *line.Line
	agent line.Agent
	watch *watch
}

// TestIdle has all middleboxes wait at the same time: waiting is what it costs.
func TestIdle(t *testing.T) {
	t.Parallel()
	n, s := reserveNginx(t), newSquid(t)
	behindNginx, jobs := pairs("idle-nginx-ws", "idle-nginx-grpc")
	behindNginx[0].KasAddress, behindNginx[1].KasAddress = n.agentURL(), n.nativeURL()
	l := line.StartT(t, line.Config{
		ControlPlane: cluster, Agents: behindNginx, Jobs: jobs, PlainProxy: true,
		ExtraKasYAML: "standalone: {kubernetes_api_url: '" + n.jobURL() + "'}",
	})
	n.serve(t, l, "")
	watches := []quiet{{line: l, agent: behindNginx[0]}, {line: l, agent: behindNginx[1]}}

	s.start(t)
	behindSquid, jobs := pairs("idle-squid-wss", "idle-squid-grpcs")
	l = line.StartT(t, line.Config{ControlPlane: cluster, Scheme: line.WSS, Hosts: []string{kasName}, Agents: behindSquid, Jobs: jobs})
	for i, scheme := range []string{line.WSS, line.GRPCS} {
		adjust(t, l, behindSquid[i].Name, func(a *line.Agent) {
			a.KasAddress = scheme + "://" + strings.Replace(l.AgentAddress, "127.0.0.1", kasName, 1)
			a.Env = s.env()
		})
		watches = append(watches, quiet{line: l, agent: behindSquid[i]})
	}

	for i := range watches {
		watches[i].begin(t)
	}
	time.Sleep(idle) // not a wait for something: silence is what is tested
	for i := range watches {
		watches[i].end(t)
	}
}

// begin connects the agent and opens the watch.
func (q *quiet) begin(t *testing.T) {
	t.Helper()
	connect(t, q.line, q.agent.Name)
	kubectl(t, q.line, q.agent.ID, "create", "namespace", q.agent.Name)
	apply(t, q.line, q.agent.ID, q.agent.Name, "first", "one")
	q.watch = startWatch(t, q.line, q.agent.ID, q.agent.Name)
	q.watch.want(t, "configmap/first")
}

// end checks that the watch still works, over the connection on which it began.
func (q *quiet) end(t *testing.T) {
	t.Helper()
	q.watch.wantNone(t)
	// The administrator makes the event: the first bytes on the line come from the cluster.
	if _, err := cluster.Kubectl(soon(t), "-n", q.agent.Name, "create", "configmap", "second"); err != nil {
		t.Fatal(err)
	}
	q.watch.want(t, "configmap/second")
	kubectl(t, q.line, q.agent.ID, "-n", q.agent.Name, "get", "configmaps")
	log := q.line.AgentLog(q.agent.Name)
	if got := strings.Count(log, "Connected to gRPC server"); got != 1 {
		t.Errorf("agent %s connected %d times, want once", q.agent.Name, got)
	}
	for _, level := range []string{`"level":"warn"`, `"level":"error"`} {
		if strings.Contains(log, level) {
			t.Errorf("the log of agent %s has a line of %s", q.agent.Name, level)
		}
	}
}
