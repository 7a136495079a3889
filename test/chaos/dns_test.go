//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/fleet"
	"gitlab.com/agentk/agentk/test/line"
)

// kasName is what the agents are told to dial.
const kasName = "kas.chaos.test"

// hosts is a file that agents see in the place of /etc/hosts.
type hosts struct{ path string }

func newHosts(t *testing.T) hosts { return hosts{filepath.Join(t.TempDir(), "hosts")} }

// say makes kasName have these addresses. The file keeps its identity, as it is mounted.
func (h hosts) say(t *testing.T, addresses ...string) {
	t.Helper()
	text := ""
	for _, address := range addresses {
		text += address + " " + kasName + "\n"
	}
	if err := os.WriteFile(h.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wrap gives an agent a view of the file system of its own, in which the file is in its place.
func (h hosts) wrap() []string {
	unshare := []string{"unshare", "--mount", "--propagation", "private"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	return append(unshare, "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, h.path)
}

// The name of kas first has one address and then another one, at which another kas is; what the first one leads to dies.
func TestDNSAnswerChanges_AgentsFollow(t *testing.T) {
	t.Parallel()
	h := newHosts(t)
	h.say(t, "127.0.0.1") // nobody is there
	cfg := fleet.Config{ControlPlane: cluster}
	for i, scheme := range []string{line.WS, line.GRPC} {
		cfg.Agents = append(cfg.Agents, line.Agent{ID: int64(demoID + i), Name: "by-" + scheme, Project: "acme/infra", Wrap: h.wrap(), Manual: true})
	}
	f := start(t, cfg)
	first := lead(t, "127.0.0.2", 0, f.Kas[0].AgentAddress)
	_, port, err := net.SplitHostPort(first.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	second := lead(t, "127.0.0.3", number, f.Kas[1].AgentAddress)
	h.say(t, "127.0.0.2")
	for _, scheme := range []string{line.WS, line.GRPC} {
		address := scheme + "://" + net.JoinHostPort(kasName, port)
		if err := f.SetAgent("by-"+scheme, func(a *line.Agent) { a.KasAddress = address }); err != nil {
			t.Fatal(err)
		}
		if err := f.StartAgent(soon(t), "by-"+scheme); err != nil {
			t.Fatal(err)
		}
	}
	expectOpen(t, "both agents use the first address", first, 2)

	h.say(t, "127.0.0.3")
	set(t, first, badlink.Conditions{Refuse: true})
	first.Reset()
	expectOpen(t, "both agents use the second address", second, 2)
	for _, scheme := range []string{line.WS, line.GRPC} {
		if err := ok(ask(soon(t), f, front(f), "by-"+scheme, word)); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// lead opens a link with an address of its own.
func lead(t *testing.T, host string, port int, to string) *badlink.Link {
	t.Helper()
	l, err := badlink.Listen(badlink.Config{Host: host, Port: port, Dial: badlink.To(to)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func expectOpen(t *testing.T, what string, l *badlink.Link, n int) {
	t.Helper()
	eventually(t, what, func(context.Context) error {
		if got := len(l.Open()); got != n {
			return fmt.Errorf("%d connections", got)
		}
		return nil
	})
}
