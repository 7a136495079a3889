package stock

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// soon is less than any back-off: what comes within it was not held back.
const soon = 700 * time.Millisecond

// promptly fails if something never happens that soon. A busy machine is given several tries; a back-off would hold back each.
func promptly(t *testing.T, what string, once func()) {
	t.Helper()
	for range 5 {
		start := time.Now()
		once()
		if time.Since(start) < soon {
			return
		}
	}
	t.Errorf("%s never came within %v", what, soon)
}

// greeted is an agent that is registered, configured and has its two tunnels at a kas.
func greeted(t *testing.T, k *stockKas, section string) (a *ourAgent, l *link, configuration *rpc, tunnels []*rpc) {
	t.Helper()
	a = startAgent(t, k.address)
	l = k.connection(t)
	k.registration(t)
	configuration = k.configure(t, section)
	eventually(t, "the configuration", func() bool { return strings.Contains(a.said(), "Configuration applied") })
	return a, l, configuration, []*rpc{k.tunnel(t), k.tunnel(t)}
}

// TestKas15_HasNoRegistrar: the call does not exist, and nothing else suffers.
func TestKas15_HasNoRegistrar(t *testing.T) {
	k := listenAs(t, "kas-15", "ws")
	a := startAgent(t, k.address)
	k.next(t, register).refuse("12", "unknown service gitlab.agent.agent_registrar.rpc.AgentRegistrar")
	k.configure(t, "configuration")
	c := k.tunnel(t)
	c.ask(t, "request-info", "http-header", "http-trailer", "close-send")
	if got := c.answered(t); got.Response.StatusCode != 200 {
		t.Errorf("answer: %v", got.Response)
	}
	c.completed(t)
	c.finish(t)
	if r := a.cluster.request(t); r.URL.Path != "/version" || len(r.body) != 0 || r.Header.Get("Impersonate-User") != "" {
		t.Errorf("the cluster gets %s with a body of %d and %v", r.URL, len(r.body), r.Header)
	}
	k.tunnel(t)
}

// TestKas18_Session: newer fields everywhere, lists instead of maps, no credential of kas in the metadata is of use.
func TestKas18_Session(t *testing.T) {
	for _, scheme := range []string{"ws", "grpc"} {
		t.Run(scheme, func(t *testing.T) {
			k := listenAs(t, "kas-18", scheme)
			a, _, _, tunnels := greeted(t, k, "configuration")
			if !a.log.Level.Enabled(-1) {
				t.Error("the known part of the configuration has no effect")
			}
			if !a.metric(t, "agentk_config_valid 1") {
				t.Error("a newer configuration is refused")
			}
			c := tunnels[1]
			c.ask(t, "request-info", "http-header", "http-trailer", "close-send")
			got := c.answered(t)
			c.completed(t)
			c.finish(t)
			if got.Response.StatusCode != 200 {
				t.Errorf("answer: %v", got.Response)
			}
			r := a.cluster.request(t)
			if r.URL.Path != "/api/v1/pods" || r.URL.RawQuery != "labelSelector=a%3Db&limit=500" || r.ContentLength != 0 {
				t.Errorf("the cluster gets %s, body of %d", r.URL, r.ContentLength)
			}
			if got := r.Header["Accept"]; !slices.Equal(got, []string{"application/json", "*/*"}) {
				t.Errorf("Accept: %q", got)
			}
			if r.Header.Get("Authorization") != "Bearer "+clusterToken || r.Header.Get("Impersonate-User") != "gitlab:user:jane" {
				t.Errorf("identity: %v", r.Header)
			}
			a.stop()
			k.next(t, unregister)
			if err := <-a.ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKas18_UnknownCall: a method that the agent did not announce ends as a call of its own, and the tunnel with it in order.
func TestKas18_UnknownCall(t *testing.T) {
	k := listenAs(t, "kas-18", "ws")
	_, l, _, tunnels := greeted(t, k, "configuration")
	l.write(func() error { l.ws.piece = 7; return nil })
	c := tunnels[0]
	c.ask(t, "graph-info", "close-send")
	for _, want := range [][]byte{{0x12, 0}, {0x22, 0}} { // header and trailer, empty
		if got := c.message(t); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	}
	m := &reversetunnel.ConnectRequest{}
	unmarshal(t, c.message(t), m)
	if codes.Code(m.GetError().GetStatus().GetCode()) != codes.Unimplemented {
		t.Errorf("got %v", m)
	}
	c.ending(t)
	c.finish(t)
	k.tunnel(t)
}

// TestKas_RefusedUpgrade: the whole answer comes while kas leaves its side open, and the call ends when that is closed.
func TestKas_RefusedUpgrade(t *testing.T) {
	k := listenAs(t, "kas-18", "ws")
	_, _, _, tunnels := greeted(t, k, "configuration")
	c := tunnels[0]
	c.ask(t, "request-info", "upgrade-header", "http-trailer")
	if got := c.answered(t); got.Response.StatusCode != 403 || !strings.Contains(string(got.body), "no upgrade here") {
		t.Errorf("answer: %v", got.Response)
	}
	c.send(k.says.message(t, "close-send"))
	c.completed(t)
	c.finish(t)
	k.tunnel(t)
}

// TestKas_EndsIdleTunnel: at its age limit, and because whoever asked for it has left.
func TestKas_EndsIdleTunnel(t *testing.T) {
	for code, name := range map[string]string{"0": "OK", "1": "Canceled", "4": "DeadlineExceeded"} {
		t.Run(name, func(t *testing.T) {
			k := listenAs(t, "kas-16.6", "ws")
			_, _, _, tunnels := greeted(t, k, "configuration")
			idle := tunnels[0]
			promptly(t, "the next tunnel", func() {
				idle.refuse(code, "")
				idle = k.tunnel(t)
			})
			tunnels[1].silent(t)
		})
	}
}

// TestKas_AbortsRequest: the caller has left, and the agent's slot is free at once.
func TestKas_AbortsRequest(t *testing.T) {
	k := listenAs(t, "kas-16.6", "ws")
	_, _, _, tunnels := greeted(t, k, "configuration")
	c := tunnels[0]
	promptly(t, "the next tunnel", func() {
		c.ask(t, "request-info", "http-header") // the body stays open, and the cluster waits for it
		c.headers(append(k.says.fields(t, "trailers")[:0], field("grpc-status", "1"), field("grpc-message", "read from incoming stream")), true)
		c = k.tunnel(t)
	})
}

// TestKas_EndsConfigurationStream: the agent comes back at once and says what it has.
func TestKas_EndsConfigurationStream(t *testing.T) {
	for section, commit := range map[string]string{
		"configuration": "0c1d2e3f4a5b60718293a4b5c6d7e8f901234567", "configuration-no-ref": "ref not found",
	} {
		k := listenAs(t, "kas-18", "ws")
		_, _, c, _ := greeted(t, k, section)
		start := time.Now()
		c.finish(t)
		_, asked := k.configuration(t)
		if took := time.Since(start); took > 9*time.Second { // the shortest back-off is ten
			t.Errorf("the next configuration stream took %v", took)
		}
		if asked.CommitId != commit {
			t.Errorf("the agent says that it has %q, want %q", asked.CommitId, commit)
		}
	}
}

// TestKas_RefusesConfiguration: what the agent had stays in use, and it serves on.
func TestKas_RefusesConfiguration(t *testing.T) {
	for code, message := range map[string]string{
		"9": "Config: config file: yaml: line 3: mapping values are not allowed", "5": "Config: repository poll failed: no such branch",
	} {
		k := listenAs(t, "kas-16.6", "ws")
		a, _, c, tunnels := greeted(t, k, "configuration")
		c.headers(append(k.says.fields(t, "trailers")[:0], field("grpc-status", code), field("grpc-message", message)), true)
		eventually(t, "the refusal in the metrics", func() bool { return a.metric(t, "agentk_config_valid 0") })
		if !strings.Contains(a.said(), message) {
			t.Error("the log does not say why")
		}
		checkServed(t, a, tunnels[0])
		k.tunnel(t)
	}
}

// TestKas_GoAway: a new connection takes over, and what is under way on the old one ends there.
func TestKas_GoAway(t *testing.T) {
	k := listenAs(t, "kas-16.6", "ws")
	a, l, configuration, tunnels := greeted(t, k, "configuration")
	l.write(func() error { return l.framer.WriteGoAway(1<<31-1, 0, []byte("max_age")) })
	next := k.connection(t)
	checkServed(t, a, tunnels[0])
	if c := k.tunnel(t); c.link != next {
		t.Error("the slot comes back on the old connection")
	}
	tunnels[1].refuse("0", "")
	configuration.finish(t)
	if c := k.tunnel(t); c.link != next {
		t.Error("the slot comes back on the old connection")
	}
	if c, _ := k.configuration(t); c.link != next {
		t.Error("the configuration stream comes back on the old connection")
	}
}

// TestKas_ShutsDown: 1000 is how kas ends, 1001 is for those who come while it does.
func TestKas_ShutsDown(t *testing.T) {
	for _, code := range []uint16{1000, 1001} {
		k := listenAs(t, "kas-16.6", "ws")
		a, l, _, _ := greeted(t, k, "configuration")
		if err := l.ws.end(code); err != nil {
			t.Fatal(err)
		}
		_ = l.conn.Close()
		k.connection(t)
		k.tunnel(t)
		c := k.tunnel(t)
		k.registration(t)
		checkServed(t, a, c)
	}
}

// TestKas_Upgrade: bytes go both ways until kas half-closes, which ends the conversation with the cluster.
func TestKas_Upgrade(t *testing.T) {
	k := listenAs(t, "kas-16.6", "ws")
	_, _, _, tunnels := greeted(t, k, "configuration")
	c := tunnels[0]
	c.begin(t)
	c.send(k.says.message(t, "request-info"), wrapped(t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{Method: "POST", UrlPath: "/upgrade", Header: []*prototool.KeyValues{
			{Key: []byte("Connection"), Value: &prototool.Values{Value: [][]byte{[]byte("upgrade")}}},
			{Key: []byte("Upgrade"), Value: &prototool.Values{Value: [][]byte{[]byte("SPDY/3.1")}}},
		}},
		ContentLength: proto.Int64(0),
	}}}), k.says.message(t, "http-trailer"))
	if got := c.answered(t); got.Response.StatusCode != 101 || len(got.body) != 0 {
		t.Errorf("answer: %v", got.Response)
	}
	c.send(wrapped(t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_UpgradeData_{UpgradeData: &grpctool.HttpRequest_UpgradeData{Data: []byte(", world")}}}))
	heard := ""
	for heard != "hello, world" {
		m, frame := &reversetunnel.ConnectRequest{}, &grpctool.HttpResponse{}
		unmarshal(t, c.message(t), m)
		unmarshal(t, m.GetMessage().GetData(), frame)
		if frame.GetUpgradeData() == nil {
			t.Fatalf("got %v after %q", m, heard)
		}
		heard += string(frame.GetUpgradeData().Data)
	}
	c.send(k.says.message(t, "close-send"))
	c.completed(t)
	c.finish(t)
	k.tunnel(t)
}
