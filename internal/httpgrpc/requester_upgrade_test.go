package httpgrpc_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
)

const upgradeRequest = "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"

// accept reads an upgrade request and accepts it.
func accept(a *agenttest.Agent) error {
	if _, err := a.Request(); err != nil {
		return err
	}
	if _, err := a.Body(true); err != nil {
		return err
	}
	if err := a.Respond(101, "Connection", "upgrade", "Upgrade", "SPDY/3.1", "X-Stream-Protocol-Version", "v4"); err != nil {
		return err
	}
	return a.Trailer()
}

func (c *client) switched(t *testing.T) {
	t.Helper()
	resp := c.response(t, "POST")
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "SPDY/3.1" || resp.Header.Get("X-Stream-Protocol-Version") != "v4" {
		t.Fatalf("%v", resp)
	}
}

// echo answers upgraded bytes until the client half-closes.
func echo(a *agenttest.Agent) error {
	if err := accept(a); err != nil {
		return err
	}
	for {
		member, data, err := a.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if member != agenttest.UpgradeData {
			return status.Errorf(codes.Internal, "member %d", member)
		}
		if err := a.Upgraded(string(data)); err != nil {
			return err
		}
	}
}

func TestRequester_Upgrade(t *testing.T) {
	s := newRequesterServer(t, echo)
	c := s.dial(t)
	// Bytes that are sent before the answer are not lost.
	c.send(t, upgradeRequest+"early")
	c.switched(t)
	c.want(t, "early")
	big := strings.Repeat("0123456789abcdef", 64<<10)
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, big)
		wrote <- err
	}()
	c.want(t, big)
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	// The client ends its side; the agent ends too, in order.
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.wantEnd(t)
	o := s.outcome(t)
	if want := int64(len("early") + len(big)); o.err != nil || !o.done || o.res.Sent != want || o.res.Received != want || o.res.Status != 101 {
		t.Errorf("outcome %+v", o)
	}
}

// segment collects what TLS writes, to be sent at once.
type segment struct {
	net.Conn
	on   bool
	held []byte
}

func (s *segment) Write(p []byte) (int, error) {
	if !s.on {
		return s.Conn.Write(p)
	}
	s.held = append(s.held, p...)
	return len(p), nil
}

// Pieces that are there together go to the agent together, however the client has cut them.
func TestRequester_Upgrade_Gathers(t *testing.T) {
	got := make(chan string, 8)
	s := startRequesterServer(t, func(a *agenttest.Agent) error {
		if err := accept(a); err != nil {
			return err
		}
		for {
			_, data, err := a.Recv()
			if err != nil {
				close(got)
				return nil
			}
			got <- string(data)
		}
	}, true)
	beneath := &segment{Conn: s.dial(t).Conn}
	conn := tls.Client(beneath, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own certificate
	c := &client{Conn: conn, r: bufio.NewReader(conn)}
	c.send(t, upgradeRequest)
	c.switched(t)
	c.send(t, "a lone piece")
	next := func() string {
		t.Helper()
		select {
		case m := <-got:
			return m
		case <-time.After(patience):
			t.Fatal("nothing arrives")
			return ""
		}
	}
	if m := next(); m != "a lone piece" {
		t.Fatalf("%q", m)
	}
	beneath.on = true
	for _, piece := range []string{"head ", "body ", "tail"} {
		c.send(t, piece)
	}
	if _, err := beneath.Conn.Write(beneath.held); err != nil {
		t.Fatal(err)
	}
	if m := next(); m != "head body tail" {
		t.Fatalf("%q", m)
	}
	beneath.on = false
	long := strings.Repeat("0123456789abcdef", 16<<10)
	c.send(t, long)
	_ = conn.CloseWrite()
	var all strings.Builder
	for m := range got {
		if len(m) > 32<<10 {
			t.Errorf("a message of %d bytes", len(m))
		}
		all.WriteString(m)
	}
	if all.String() != long {
		t.Errorf("%d bytes arrived", all.Len())
	}
	if o := s.outcome(t); o.err != nil || !o.done {
		t.Errorf("outcome %+v", o)
	}
}

func TestRequester_Upgrade_AgentCloses(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := accept(a); err != nil {
			return err
		}
		return a.Upgraded("bye")
	})
	c := s.dial(t)
	c.send(t, upgradeRequest)
	c.switched(t)
	c.want(t, "bye")
	c.wantEnd(t)
	if o := s.outcome(t); o.err != nil || !o.done {
		t.Errorf("outcome %+v", o)
	}
}

// The client keeps its side open and keeps sending: it still reads everything, and the exchange still ends.
func TestRequester_Upgrade_AgentClosesWhileClientSends(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := accept(a); err != nil {
			return err
		}
		return a.Upgraded("all of it")
	})
	c := s.dial(t)
	c.send(t, upgradeRequest+strings.Repeat("x", 64<<10))
	c.switched(t)
	c.want(t, "all of it")
	c.wantEnd(t)
	if o := s.outcome(t); o.err != nil || !o.done {
		t.Errorf("outcome %+v", o)
	}
}

func TestRequester_Upgrade_ClientResets(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := accept(a); err != nil {
			return err
		}
		<-a.Ctx.Done() // a reset ends the call at once
		return a.Ctx.Err()
	})
	c := s.dial(t)
	c.send(t, upgradeRequest)
	c.switched(t)
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	o := s.outcome(t)
	var failure *httpgrpc.Error
	if !errors.As(o.err, &failure) || failure.Hop != fault.Client || o.done {
		t.Errorf("outcome %+v", o)
	}
}

// An agent that does not answer the half-close is given up.
func TestRequester_Upgrade_AgentNeverEnds(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := accept(a); err != nil {
			return err
		}
		<-a.Ctx.Done()
		return a.Ctx.Err()
	})
	c := s.dial(t)
	c.send(t, upgradeRequest)
	c.switched(t)
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.wantEnd(t)
	o := s.outcome(t)
	var failure *httpgrpc.Error
	if !errors.As(o.err, &failure) || failure.Hop != fault.Agent || o.done {
		t.Errorf("outcome %+v", o)
	}
}

func TestRequester_Upgrade_AgentBreaks(t *testing.T) {
	tests := []struct {
		name string
		play script
	}{
		{"status", func(a *agenttest.Agent) error {
			return status.Error(codes.Canceled, "gRPC -> HTTP: read upgrade response body")
		}},
		{"data", func(a *agenttest.Agent) error { return a.Data("x") }},
		{"second trailer", func(a *agenttest.Agent) error { return a.Trailer() }},
		{"malformed", func(a *agenttest.Agent) error { return a.Send([]byte{0x22, 0x05, 0x0a}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newRequesterServer(t, func(a *agenttest.Agent) error {
				if err := accept(a); err != nil {
					return err
				}
				if err := a.Upgraded("some"); err != nil {
					return err
				}
				return tt.play(a)
			})
			c := s.dial(t)
			c.send(t, upgradeRequest)
			c.switched(t)
			c.want(t, "some")
			c.wantEnd(t)
			o := s.outcome(t)
			var failure *httpgrpc.Error
			if !errors.As(o.err, &failure) || failure.Hop != fault.Agent || o.done {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

// Between a 101 and its trailer there is nothing, and before the trailer the client sees nothing.
func TestRequester_Upgrade_NotCompleted(t *testing.T) {
	head := func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		return a.Respond(101, "Upgrade", "SPDY/3.1")
	}
	tests := []struct {
		name string
		play script
	}{
		{"data", func(a *agenttest.Agent) error { return a.Data("x") }},
		{"upgrade data", func(a *agenttest.Agent) error { return a.Upgraded("x") }},
		{"end", func(*agenttest.Agent) error { return nil }},
		{"status", func(*agenttest.Agent) error { return status.Error(codes.Unavailable, "lost") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newRequesterServer(t, func(a *agenttest.Agent) error {
				if err := head(a); err != nil {
					return err
				}
				return tt.play(a)
			})
			c := s.dial(t)
			for range 2 {
				c.send(t, upgradeRequest)
				resp := c.response(t, "POST")
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Upgrade") != "" {
					t.Fatalf("%v %q", resp, body)
				}
				if o := s.outcome(t); o.err == nil || o.done || o.res.Committed {
					t.Fatalf("outcome %+v", o)
				}
			}
		})
	}
}

// CVE-2018-1002105: after a refused upgrade the connection speaks HTTP, and nothing on it reaches the cluster as raw bytes.
func TestRequester_CVE_2018_1002105_RefusedUpgrade(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		if h.GetRequest().GetMethod() == http.MethodGet {
			return a.Answer(200, "fine")
		}
		if _, err := a.Body(true); err != nil {
			return err
		}
		if err := a.Answer(400, "no such pod"); err != nil {
			return err
		}
		if member, _, err := a.Recv(); !errors.Is(err, io.EOF) {
			return status.Errorf(codes.Internal, "member %d, %v after a refused upgrade", member, err)
		}
		return nil
	})
	c := s.dial(t)
	c.send(t, upgradeRequest+"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
	resp := c.response(t, "POST")
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != 400 || string(body) != "no such pod" || err != nil {
		t.Fatalf("%v %q %v", resp, body, err)
	}
	if o := s.outcome(t); o.err != nil || !o.done {
		t.Fatalf("outcome %+v", o)
	}
	resp = c.response(t, "GET")
	if body, err := io.ReadAll(resp.Body); string(body) != "fine" || err != nil {
		t.Fatalf("%q %v", body, err)
	}
}

func TestRequester_Upgrade_CutAtShutdown(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := accept(a); err != nil {
			return err
		}
		<-a.Ctx.Done()
		return a.Ctx.Err()
	})
	c := s.dial(t)
	c.send(t, upgradeRequest)
	c.switched(t)
	s.cut(fault.New(fault.Unavailable, fault.Kas, "kas is shutting down"))
	c.wantEnd(t)
	o := s.outcome(t)
	var failure *httpgrpc.Error
	if !errors.As(o.err, &failure) || failure.Hop != fault.Kas && failure.Hop != fault.Client || o.done {
		t.Errorf("outcome %+v", o)
	}
}

func TestCanUpgrade(t *testing.T) {
	var got [2]bool
	s := newHandlerServer(t, func(w http.ResponseWriter, r *http.Request) {
		got[0] = httpgrpc.CanUpgrade(w, r)
		r.ProtoMajor = 2
		got[1] = httpgrpc.CanUpgrade(w, r.WithContext(context.Background()))
	})
	resp, err := http.Get(s)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if !got[0] || got[1] {
		t.Errorf("CanUpgrade: HTTP/1.1 %t, HTTP/2 %t", got[0], got[1])
	}
}
