//go:build e2e

package middlebox

import (
	"net"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

func TestSquid(t *testing.T) {
	t.Parallel()
	for _, schemes := range [][2]string{{line.WSS, line.GRPCS}, {line.WS, line.GRPC}} {
		t.Run(schemes[0], func(t *testing.T) {
			t.Parallel()
			testSquid(t, schemes)
		})
	}
}

// testSquid has a kas with or without TLS, one agent per scheme, and squid as their only way.
func testSquid(t *testing.T, schemes [2]string) {
	s := newSquid(t)
	agents, jobs := pairs("squid-"+schemes[0], "squid-"+schemes[1], "squid-direct-"+schemes[0], "squid-direct-"+schemes[1])
	l := line.StartT(t, line.Config{ControlPlane: cluster, Scheme: schemes[0], Hosts: []string{kasName}, Agents: agents, Jobs: jobs})
	_, port, err := net.SplitHostPort(l.AgentAddress)
	if err != nil {
		t.Fatal(err)
	}
	target := net.JoinHostPort(kasName, port)
	for i := range agents {
		adjust(t, l, agents[i].Name, func(a *line.Agent) {
			a.KasAddress = schemes[i%2] + "://" + target
			a.Env = s.env()
			if i >= len(schemes) {
				a.Env = append(a.Env, "NO_PROXY=.test")
			}
		})
	}
	used, direct := agents[:2], agents[2:]

	s.start(t)
	for _, a := range used {
		connect(t, l, a.Name)
		kubectl(t, l, a.ID, "get", "namespaces")
	}
	for _, a := range direct {
		// The agent itself cannot resolve the name, which proves both that the others go through squid and that this one does not.
		wantLine(t, "log of an agent told to use no proxy", launch(t, l, a.Name), "Cannot connect to gRPC server", "lookup "+kasName)
		if _, err := l.KillAgent(soon(t), a.Name); err != nil {
			t.Error(err)
		}
	}

	var logs []func() string
	for _, a := range used {
		logs = append(logs, mark(l, a.Name))
	}
	s.stop(t)
	for _, log := range logs {
		wantLine(t, "log of an agent that lost its proxy", log, "Disconnected from gRPC server")
		wantLine(t, "log of an agent without its proxy", log, "Cannot connect to gRPC server", "connect to proxy "+s.address, "refused")
	}
	if out, err := l.Kubectl(soon(t), used[0].ID, "get", "namespaces", "--request-timeout=2s"); err == nil {
		t.Errorf("kubectl without the agent's proxy: %s, want an error", out)
	}
	s.start(t)
	for i, a := range used {
		wantLine(t, "log of an agent whose proxy is back", logs[i], "Connected to gRPC server")
		kubectl(t, l, a.ID, "get", "namespaces")
	}

	s.stop(t)
	connects := strings.Count(s.read(t, "access.log"), "TCP_TUNNEL/200")
	if want := 2 * len(used); connects != want {
		t.Errorf("squid has %d tunnels in its log, want %d", connects, want)
	}
	wantLine(t, "log of squid", s.accessLog(t), "CONNECT "+target, "TCP_TUNNEL/200", "127.0.0.1")
}
