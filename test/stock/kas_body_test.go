package stock

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// wrapped is a message of the request inside one of the tunnel.
func wrapped(t *testing.T, m *grpctool.HttpRequest) []byte {
	t.Helper()
	inner, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := proto.Marshal(&reversetunnel.ConnectResponse{Msg: &reversetunnel.ConnectResponse_Message{Message: &reversetunnel.Message{Data: inner}}})
	if err != nil {
		t.Fatal(err)
	}
	return outer
}

// upload sends a request with a body, to be echoed, without reading anything meanwhile.
func upload(t *testing.T, c *rpc, body []byte) {
	t.Helper()
	c.begin(t)
	c.send(c.kas.says.message(t, "request-info"), wrapped(t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{Method: "POST", UrlPath: "/echo"}, ContentLength: proto.Int64(-1),
	}}}))
	for chunk := range slices.Chunk(body, 32<<10) {
		c.send(wrapped(t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Data_{Data: &grpctool.HttpRequest_Data{Data: chunk}}}))
	}
	c.send(c.kas.says.message(t, "http-trailer"), c.kas.says.message(t, "close-send"))
}

// TestKas_SendsAllBeforeItReads: a stock kas looks at the answer only when the request is out, whatever the size.
func TestKas_SendsAllBeforeItReads(t *testing.T) {
	k := listenAs(t, "kas-16.6", "ws")
	a, l, _, tunnels := greeted(t, k, "configuration")
	l.starve()
	body := bytes.Repeat([]byte("0123456789abcdef"), 256<<10/16)
	c := tunnels[0]
	upload(t, c, body)
	if r := a.cluster.request(t); !bytes.Equal(r.body, body) {
		t.Errorf("the cluster gets %d bytes", len(r.body))
	}
	l.feed(c.stream)
	if got := c.answered(t); !bytes.Equal(got.body, body) {
		t.Errorf("the caller gets %d bytes", len(got.body))
	}
	c.completed(t)
	c.finish(t)
}

// TestKas_SlowReader: a caller that stops reading for a while, as a pager does, gets the rest of a finished answer all the same.
func TestKas_SlowReader(t *testing.T) {
	t.Parallel()
	k := listenAs(t, "kas-16.6", "ws")
	a, l, _, tunnels := greeted(t, k, "configuration")
	l.starve()
	body := bytes.Repeat([]byte("0123456789abcdef"), 96<<10/16)
	c := tunnels[0]
	upload(t, c, body)
	a.cluster.request(t)
	pause := time.NewTimer(11 * time.Second)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-l.ended:
		t.Fatal("the agent has closed the connection")
	}
	l.feed(c.stream)
	if got := c.answered(t); !bytes.Equal(got.body, body) {
		t.Errorf("the caller gets %d bytes", len(got.body))
	}
	c.completed(t)
	c.finish(t)
}
