package stock

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// response is a message of a response inside one of the tunnel.
func response(t *testing.T, m *grpctool.HttpResponse) []byte {
	t.Helper()
	inner, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return request(t, &reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Message{Message: &reversetunnel.Message{Data: inner}}})
}

func request(t *testing.T, m *reversetunnel.ConnectRequest) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// failure is the last message of a call that failed.
func failure(t *testing.T, code codes.Code, message string) []byte {
	t.Helper()
	return request(t, &reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Error{Error: &reversetunnel.Error{
		Status: &statuspb.Status{Code: int32(code), Message: message},
	}}})
}

func responseHeader(t *testing.T, status int32, text string, kv ...string) []byte {
	t.Helper()
	h := &prototool.HttpResponse{StatusCode: status, Status: text}
	for i := 0; i < len(kv); i += 2 {
		h.Header = append(h.Header, &prototool.KeyValues{Key: []byte(kv[i]), Value: &prototool.Values{Value: [][]byte{[]byte(kv[i+1])}}})
	}
	return response(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{Response: h}}})
}

// session is a job's client that asks for an upgrade.
type session struct {
	net.Conn
	reader *bufio.Reader
}

func (k *ourKas) upgrade(t *testing.T) *session {
	t.Helper()
	host := strings.TrimSuffix(strings.TrimPrefix(k.proxy, "http://"), "/k8s-proxy")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	head := []string{
		"POST /k8s-proxy/api/v1/namespaces/d/pods/p/exec HTTP/1.1", "Host: " + host, "Authorization: Bearer ci:1:" + jobToken,
		"Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0",
	}
	if _, err := io.WriteString(conn, strings.Join(head, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return &session{conn, bufio.NewReader(conn)}
}

// answer reads the head of the answer.
func (s *session) answer(t *testing.T) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(s.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// upgradeRequest waits for a request to upgrade: kas leaves its side open.
func upgradeRequest(t *testing.T, a *agent, s *stream) {
	t.Helper()
	got := a.opening(t, s)
	found := false
	for _, kv := range got.header.Request.Header {
		found = found || string(kv.Key) == "Upgrade" && string(kv.Value.Value[0]) == "SPDY/3.1"
	}
	if !found {
		t.Errorf("no Upgrade in %v", got.header.Request)
	}
	a.expect(t, s, "http-trailer")
	a.settle(t)
	s.silent(t)
}

// TestAgent_Upgrade: bytes go both ways, and the client's close is told to an agent that would wait for it.
func TestAgent_Upgrade(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-16.6", "ws")
	s := a.park(t, 1)[0]
	client := k.upgrade(t)
	upgradeRequest(t, a, s)
	s.send(a.says.message(t, "answer-header"), responseHeader(t, 101, "101 Switching Protocols", "Connection", "Upgrade", "Upgrade", "SPDY/3.1"),
		a.says.message(t, "answer-http-trailer"),
		response(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_UpgradeData_{UpgradeData: &grpctool.HttpResponse_UpgradeData{Data: []byte("hello")}}}))
	if resp := client.answer(t); resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "SPDY/3.1" {
		t.Errorf("the client gets %v", resp)
	}
	hello := make([]byte, 5)
	if _, err := io.ReadFull(client.reader, hello); err != nil || string(hello) != "hello" {
		t.Errorf("the client reads %q, %v", hello, err)
	}
	if _, err := io.WriteString(client, "world"); err != nil {
		t.Fatal(err)
	}
	m, frame := &reversetunnel.ConnectResponse{}, &grpctool.HttpRequest{}
	unmarshal(t, s.message(t), m)
	unmarshal(t, m.GetMessage().GetData(), frame)
	if got := string(frame.GetUpgradeData().GetData()); got != "world" {
		t.Errorf("the agent gets %q", got)
	}
	_ = client.Close()
	if e := s.next(t); e.isMessage { // or the end of the RPC, as after an abort
		if want := load(t, "kas-16.6").message(t, "close-send"); string(e.message) != string(want) {
			t.Errorf("at the end: %x", e.message)
		}
	} else if !e.end {
		t.Errorf("at the end: %+v", e)
	}
}

// TestAgent_RefusedUpgrade: the agent ends the call only when kas has half-closed, which has to happen after the answer.
func TestAgent_RefusedUpgrade(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-16.6", "ws")
	s := a.park(t, 1)[0]
	client := k.upgrade(t)
	upgradeRequest(t, a, s)
	s.send(a.says.message(t, "answer-header"), responseHeader(t, 403, "403 Forbidden", "Content-Length", "2"),
		response(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Data_{Data: &grpctool.HttpResponse_Data{Data: []byte("no")}}}),
		a.says.message(t, "answer-http-trailer"))
	a.expect(t, s, "close-send")
	s.send(a.says.message(t, "answer-trailer"))
	s.halfClose()
	resp := client.answer(t)
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 403 || string(body) != "no" || err != nil {
		t.Errorf("the client gets %v %q %v", resp.Status, body, err)
	}
	checkStatus(t, s, "0")
}

// TestAgent_FailedUpgrade: the client is told, although its own side is open.
func TestAgent_FailedUpgrade(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-16.6", "ws")
	s := a.park(t, 1)[0]
	client := k.upgrade(t)
	upgradeRequest(t, a, s)
	s.send([]byte{0x12, 0}, a.says.message(t, "answer-trailer"), failure(t, codes.Unavailable, "gRPC -> HTTP: dial tcp: connection refused"))
	s.halfClose()
	if resp := client.answer(t); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("the client gets %v", resp.Status)
	}
	checkOver(t, s)
}

// TestAgent_FailedCall: a call that failed before it had an answer has an empty header all the same.
func TestAgent_FailedCall(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-16.6", "ws")
	s := a.park(t, 1)[0]
	answered := k.ask(t, "/version")
	a.request(t, s)
	s.send([]byte{0x12, 0}, a.says.message(t, "answer-trailer"), failure(t, codes.Unavailable, "gRPC -> HTTP: dial tcp: connection refused"))
	s.halfClose()
	if o := <-answered; o.err != nil || o.status != http.StatusBadGateway || !strings.Contains(o.body, "connection refused") {
		t.Errorf("the job gets %+v", o)
	}
	checkOver(t, s)
}

// checkOver waits for the end of a tunnel after which an agent opens the next at once, as it does after OK and Canceled.
func checkOver(t *testing.T, s *stream) {
	t.Helper()
	e := s.next(t)
	if code := value(e.fields, "grpc-status"); !e.end || code != "0" && code != "1" {
		t.Errorf("stream %d: got %+v, want the end with OK or Canceled", s.id, e)
	}
}

// TestAgent_StatusAfterAnswer: what comes after a complete answer changes nothing.
func TestAgent_StatusAfterAnswer(t *testing.T) {
	k := startKas(t, "7200s")
	a := dial(t, k, "agent-16.6", "ws")
	s := a.park(t, 1)[0]
	answered := k.ask(t, "/version")
	a.request(t, s)
	for _, section := range []string{"answer-header", "answer-http-header", "answer-http-data", "answer-http-trailer", "answer-trailer"} {
		s.send(a.says.message(t, section))
	}
	s.send(failure(t, codes.Canceled, "gRPC -> HTTP: request body write: io: read/write on closed pipe"))
	s.halfClose()
	if o := <-answered; o.err != nil || o.status != http.StatusOK || !strings.Contains(o.body, "gitVersion") {
		t.Errorf("the job gets %+v", o)
	}
	checkStatus(t, s, "0")
}
