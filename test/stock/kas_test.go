package stock

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// stockKas is a stock kas for one agent of ours.
type stockKas struct {
	address string
	says    record
	ws      bool
	// conns and calls are what the agent opens, calls by method.
	conns chan *link
	calls map[string]chan *rpc
}

// link is one connection of the agent.
type link struct {
	*peer
	ws   *webSocket // nil without
	head []string   // of the handshake
}

// rpc is a call of the agent.
type rpc struct {
	*stream
	fields []hpack.HeaderField
	link   *link
	kas    *stockKas
}

// listenAs is a kas of a version: "ws" behind a WebSocket, "grpc" without.
func listenAs(t *testing.T, version, scheme string) *stockKas {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &stockKas{
		address: scheme + "://" + ln.Addr().String(), says: load(t, version), ws: scheme == "ws",
		conns: make(chan *link, 100), calls: map[string]chan *rpc{},
	}
	for _, method := range []string{getConfiguration, register, unregister, connect} {
		k.calls[method] = make(chan *rpc, 1000)
	}
	var workers sync.WaitGroup
	workers.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			workers.Go(func() { k.serve(t, conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		for len(k.conns) > 0 {
			_ = (<-k.conns).conn.Close()
		}
		workers.Wait()
	})
	return k
}

// serve sorts the calls of a connection.
func (k *stockKas) serve(t *testing.T, conn net.Conn) {
	l := &link{}
	if k.ws {
		reader := bufio.NewReader(conn)
		l.head = readHead(t, reader)
		key, _ := headValue(l.head, "Sec-Websocket-Key")
		answer := strings.Join(k.says.lines(t, "upgraded", "{accept}", accept(key)), "\r\n")
		if _, err := io.WriteString(conn, answer+"\r\n\r\n"); err != nil {
			return
		}
		l.ws = newWebSocket(conn, reader, false)
		conn = l.ws
	}
	l.peer = newPeer(t, conn, false)
	k.conns <- l
	for {
		select {
		case s := <-l.opened:
			e := <-s.events // a connection that is lost puts one, too
			calls := k.calls[value(e.fields, ":path")]
			if calls == nil {
				t.Errorf("the agent calls %v", e)
				return
			}
			c := &rpc{stream: s, fields: e.fields, link: l, kas: k}
			calls <- c
			if value(e.fields, ":path") == unregister {
				k.part(t, c)
			}
		case <-l.ended:
			return
		}
	}
}

// part answers the last call of an agent, which comes when no test looks any more.
func (k *stockKas) part(t *testing.T, c *rpc) {
	t.Helper()
	if _, unknown := k.says["unregistered"]; unknown {
		c.headers(k.says.fields(t, "unregistered"), true)
		return
	}
	c.answerWith(t, "registered")
}

// connection waits for the agent's next connection and looks at its handshake.
func (k *stockKas) connection(t *testing.T) *link {
	t.Helper()
	select {
	case l := <-k.conns:
		if k.ws {
			checkHandshake(t, l.head)
		}
		return l
	case <-time.After(patience):
		t.Fatal("the agent does not connect")
		return nil
	}
}

func checkHandshake(t *testing.T, head []string) {
	t.Helper()
	if head[0] != "GET / HTTP/1.1" {
		t.Errorf("handshake: %q", head[0])
	}
	for name, want := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Protocol": "ws-tunnel", "Sec-Websocket-Version": "13",
	} {
		if got, _ := headValue(head, name); !strings.EqualFold(got, want) {
			t.Errorf("handshake: %s: %q, want %q", name, got, want)
		}
	}
	if got, _ := headValue(head, "User-Agent"); !strings.HasPrefix(got, "gitlab-agent/") {
		t.Errorf("handshake: User-Agent: %q", got)
	}
	for _, name := range []string{"Sec-Websocket-Extensions", "Origin"} {
		if got, found := headValue(head, name); found {
			t.Errorf("handshake: %s: %q", name, got)
		}
	}
}

// next waits for a call of a method and looks at its headers.
func (k *stockKas) next(t *testing.T, method string) *rpc {
	t.Helper()
	select {
	case c := <-k.calls[method]:
		for name, want := range map[string]string{
			":method": "POST", ":scheme": "http", "te": "trailers", "authorization": "Bearer " + agentToken,
		} {
			if got := value(c.fields, name); got != want {
				t.Errorf("%s: %s: %q, want %q", method, name, got, want)
			}
		}
		// Both names mean the same to gRPC.
		if got := value(c.fields, "content-type"); got != "application/grpc" && got != "application/grpc+proto" {
			t.Errorf("%s: content-type: %q", method, got)
		}
		if enc := value(c.fields, "grpc-encoding"); enc != "" && enc != "identity" {
			t.Errorf("%s: grpc-encoding: %q", method, enc)
		}
		if !strings.Contains(value(c.fields, "grpc-accept-encoding"), "gzip") {
			t.Errorf("%s: the agent does not accept gzip", method)
		}
		if ua := value(c.fields, "user-agent"); !strings.HasPrefix(ua, "gitlab-agent/") || has(c.fields, "grpc-timeout") && method == connect {
			t.Errorf("%s: %v", method, c.fields)
		}
		return c
	case <-time.After(patience):
		t.Fatalf("the agent does not call %s", method)
		return nil
	}
}

// begin sends the headers of an answer, with the content type of the question as the gRPC library of stock servers does.
func (c *rpc) begin(t *testing.T) {
	t.Helper()
	c.headers(c.kas.says.fields(t, "headers", "application/grpc", value(c.fields, "content-type")), false)
}

// finish ends the call with status OK.
func (c *rpc) finish(t *testing.T) {
	t.Helper()
	c.headers(c.kas.says.fields(t, "trailers"), true)
}

// refuse ends the call with a status and nothing else.
func (c *rpc) refuse(code, message string) {
	c.headers([]hpack.HeaderField{
		field(":status", "200"), field("content-type", "application/grpc"), field("grpc-status", code), field("grpc-message", message),
	}, true)
}

// answer serves a call with one message.
func (c *rpc) answerWith(t *testing.T, section string) {
	t.Helper()
	c.begin(t)
	c.send(c.kas.says.message(t, section))
	c.finish(t)
}

// registration serves Register and returns what the agent says of itself.
func (k *stockKas) registration(t *testing.T) *agentregistrar.RegisterRequest {
	t.Helper()
	c := k.next(t, register)
	m := &agentregistrar.RegisterRequest{}
	unmarshal(t, c.message(t), m)
	c.ending(t)
	c.answerWith(t, "registered")
	return m
}

// configuration waits for the agent to ask for its configuration.
func (k *stockKas) configuration(t *testing.T) (*rpc, *agentconfiguration.ConfigurationRequest) {
	t.Helper()
	c := k.next(t, getConfiguration)
	m := &agentconfiguration.ConfigurationRequest{}
	unmarshal(t, c.message(t), m)
	c.ending(t)
	if !m.SkipRegister {
		t.Error("the agent wants to be registered by its configuration stream")
	}
	return c, m
}

// configure answers with a configuration and leaves the stream open.
func (k *stockKas) configure(t *testing.T, section string) *rpc {
	t.Helper()
	c, _ := k.configuration(t)
	c.begin(t)
	c.send(k.says.message(t, section))
	return c
}

// tunnel waits for a tunnel and its descriptor.
func (k *stockKas) tunnel(t *testing.T) *rpc {
	t.Helper()
	c := k.next(t, connect)
	m := &reversetunnel.ConnectRequest{}
	unmarshal(t, c.message(t), m)
	services := m.GetDescriptor_().GetAgentDescriptor().GetServices()
	served := false
	for _, s := range services {
		if s.Name == "gitlab.agent.kubernetes_api.rpc.KubernetesApi" {
			served = len(s.Methods) == 1 && s.Methods[0].Name == "MakeRequest"
		}
		for _, method := range s.Methods {
			if s.Name == "" || method.Name == "" {
				t.Errorf("a name is empty in %v", m)
			}
		}
	}
	if !served {
		t.Errorf("descriptor: %v", m)
	}
	return c
}

// ask sends messages down a tunnel, as one write.
func (c *rpc) ask(t *testing.T, sections ...string) {
	t.Helper()
	c.link.together(func() {
		c.begin(t)
		for _, s := range sections {
			c.send(c.kas.says.message(t, s))
		}
	})
}
