package stock

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

const (
	getConfiguration = "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration"
	register         = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register"
	unregister       = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Unregister"
	moduleRequest    = "/gitlab.agent.gitlab_access.rpc.GitlabAccess/MakeRequest"
	connect          = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect"
	makeRequest      = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest"
)

// agent is a stock agent with one connection to a kas of ours.
type agent struct {
	*peer
	says      record
	ws        *webSocket // nil without
	authority string
}

// dial connects an agent of a version: "ws" through a WebSocket, "grpc" without.
func dial(t *testing.T, k *ourKas, version, scheme string) *agent {
	t.Helper()
	conn, err := net.Dial("tcp", k.agents)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{says: load(t, version), authority: k.agents}
	if scheme == "ws" {
		a.authority = "ws:%2F%2F" + k.agents
		a.ws = a.upgrade(t, conn, k.agents)
		conn = a.ws
	}
	a.peer = newPeer(t, conn, true)
	return a
}

// upgrade does the handshake and looks at the answer.
func (a *agent) upgrade(t *testing.T, conn net.Conn, host string) *webSocket {
	t.Helper()
	lines := a.says.lines(t, "upgrade", "{path}", "/", "{host}", host, "{key}", handshakeKey, "{token}", agentToken)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	head := readHead(t, reader)
	if head[0] != "HTTP/1.1 101 Switching Protocols" {
		t.Fatalf("handshake: %q", head)
	}
	for name, want := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Protocol": "ws-tunnel", "Sec-Websocket-Accept": accept(handshakeKey),
	} {
		if got, _ := headValue(head, name); !strings.EqualFold(got, want) {
			t.Errorf("handshake: %s: %q, want %q", name, got, want)
		}
	}
	if server, _ := headValue(head, "Server"); !strings.HasPrefix(server, "gitlab-kas/") {
		t.Errorf("handshake: Server: %q", server)
	}
	if _, found := headValue(head, "Sec-Websocket-Extensions"); found {
		t.Error("handshake: an extension that was not offered")
	}
	return newWebSocket(conn, reader, true)
}

// call opens a stream with the headers of the version, or with those of another section.
func (a *agent) call(t *testing.T, method string, section ...string) *stream {
	t.Helper()
	name := "rpc"
	if len(section) > 0 {
		name = section[0]
	}
	return a.open(a.says.fields(t, name, "{method}", method, "{authority}", a.authority, "{token}", agentToken))
}

// unary does a call with one message and one answer, and returns that.
func (a *agent) unary(t *testing.T, method, section string) []byte {
	t.Helper()
	s := a.call(t, method)
	s.last(a.says.message(t, section))
	checkAnswer(t, s.answer(t))
	answer := s.message(t)
	checkStatus(t, s, "0")
	return answer
}

// park opens tunnels.
func (a *agent) park(t *testing.T, n int) []*stream {
	t.Helper()
	var parked []*stream
	a.together(func() {
		for range n {
			s := a.call(t, connect)
			s.send(a.says.message(t, "descriptor"))
			parked = append(parked, s)
		}
	})
	return parked
}

// checkAnswer looks at the headers of an answer.
func checkAnswer(t *testing.T, fields []hpack.HeaderField) {
	t.Helper()
	if value(fields, ":status") != "200" || value(fields, "content-type") != "application/grpc" {
		t.Errorf("answer: %v", fields)
	}
	if enc := value(fields, "grpc-encoding"); enc != "" && enc != "identity" {
		t.Errorf("answer: grpc-encoding %q", enc)
	}
}

// checkStatus waits for the end of an RPC with a status.
func checkStatus(t *testing.T, s *stream, code string) {
	t.Helper()
	e := s.next(t)
	if !e.end || value(e.fields, "grpc-status") != code {
		t.Errorf("stream %d: got %+v, want the end with status %s", s.id, e, code)
	}
}

// arrived is a request that came down a tunnel: the metadata, and the request's header message.
type arrived struct {
	info   *reversetunnel.RequestInfo
	header *grpctool.HttpRequest_Header
}

// request waits for a request without a body and looks at every message of it.
func (a *agent) request(t *testing.T, s *stream) arrived {
	t.Helper()
	r := a.opening(t, s)
	a.expect(t, s, "http-trailer", "close-send")
	return r
}

// expect waits for messages that are the same from every kas.
func (a *agent) expect(t *testing.T, s *stream, sections ...string) {
	t.Helper()
	kas := load(t, "kas-16.6")
	for _, section := range sections {
		if got, want := s.message(t), kas.message(t, section); !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", section, got, want)
		}
	}
}

// opening waits for the begin of a request without a body.
func (a *agent) opening(t *testing.T, s *stream) arrived {
	t.Helper()
	checkAnswer(t, s.answer(t))
	first := &reversetunnel.ConnectResponse{}
	unmarshal(t, s.message(t), first)
	info := first.GetRequestInfo()
	if info.GetMethodName() != makeRequest {
		t.Fatalf("first message: %v", first)
	}
	checkMetadata(t, info)
	second := &reversetunnel.ConnectResponse{}
	unmarshal(t, s.message(t), second)
	frame := &grpctool.HttpRequest{}
	raw := second.GetMessage().GetData()
	unmarshal(t, raw, frame)
	if !bytes.HasSuffix(raw, []byte{0x18, 0}) {
		t.Errorf("no explicit content length 0 in %x", raw)
	}
	return arrived{info: info, header: frame.GetHeader()}
}

// checkMetadata looks for what makes a stock agent drop the tunnel, and for what must not leave kas.
func checkMetadata(t *testing.T, info *reversetunnel.RequestInfo) {
	t.Helper()
	for _, kv := range info.Meta {
		key := string(kv.Key)
		plain := strings.TrimLeft(strings.TrimPrefix(key, ":"), "0123456789abcdefghijklmnopqrstuvwxyz-_.") == ""
		if !plain || key == "authorization" || strings.HasPrefix(key, "kas-hop-") {
			t.Errorf("metadata: %s", key)
		}
		for _, v := range kv.GetValue().GetValue() {
			if !strings.HasSuffix(key, "-bin") && bytes.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Errorf("metadata: %s: %q", key, v)
			}
		}
	}
}

// respond sends the recorded answer.
func (a *agent) respond(t *testing.T, s *stream) {
	t.Helper()
	for _, section := range []string{"answer-header", "answer-http-header", "answer-http-data", "answer-http-trailer", "answer-trailer"} {
		s.send(a.says.message(t, section))
	}
	s.halfClose()
}

func unmarshal(t *testing.T, data []byte, m proto.Message) {
	t.Helper()
	if err := proto.Unmarshal(data, m); err != nil {
		t.Fatal(err)
	}
}

// first returns the stream on which something comes.
func first(t *testing.T, streams []*stream) *stream {
	t.Helper()
	var found *stream
	eventually(t, "a request on any tunnel", func() bool {
		for _, s := range streams {
			if len(s.events) > 0 {
				found = s
				return true
			}
		}
		return false
	})
	return found
}
