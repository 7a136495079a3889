package httpgrpc_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
)

// Failures before the response header: an error that names stage and hop, and the client connection lives on.
func TestRequester_FailsBeforeHeader(t *testing.T) {
	const prefix = "HTTP->gRPC: failed to read gRPC response: rpc error: "
	tests := []struct {
		name string
		play script
		want string
	}{
		{"status", func(*agenttest.Agent) error { return status.Error(codes.Unavailable, "gRPC -> HTTP: dial") }, prefix + "code = Unavailable desc = gRPC -> HTTP: dial"},
		{"fault", func(*agenttest.Agent) error { return fault.New(fault.Canceled, fault.Agent, "tunnel lost") }, prefix + "code = Canceled desc = tunnel lost"},
		{"OK without an answer", func(*agenttest.Agent) error { return nil }, prefix + "code = Internal desc = the agent ended the call"},
		{"data first", func(a *agenttest.Agent) error { return a.Data("x") }, "broke the protocol: frame 2"},
		{"trailer first", func(a *agenttest.Agent) error { return a.Trailer() }, "broke the protocol: frame 3"},
		{"no member", func(a *agenttest.Agent) error { return a.Send(nil) }, "broke the protocol"},
		{"unknown member", func(a *agenttest.Agent) error { return a.Send([]byte{0x2a, 0}) }, "broke the protocol"},
		{"not protobuf", func(a *agenttest.Agent) error { return a.Send([]byte{0xff}) }, "broke the protocol"},
		{"header without response", func(a *agenttest.Agent) error { return a.Send([]byte{0x0a, 0}) }, "broke the protocol"},
		{"status 42", func(a *agenttest.Agent) error { return a.Respond(42) }, "broke the protocol: status 42"},
		{"negative status", func(a *agenttest.Agent) error { return a.Respond(-1) }, "broke the protocol"},
		{"unasked 101", func(a *agenttest.Agent) error { return a.Respond(101) }, "an upgrade that nobody asked for"},
		{"line break in header", func(a *agenttest.Agent) error { return a.Respond(200, "X", "a\r\nSet-Cookie: b") }, `invalid value of header "X"`},
		{"bad header name", func(a *agenttest.Agent) error { return a.Respond(200, "X\r\nY", "a") }, "invalid header name"},
		{"two lengths", func(a *agenttest.Agent) error { return a.Respond(200, "Content-Length", "1", "Content-Length", "2") }, "invalid Content-Length"},
		{"bad length", func(a *agenttest.Agent) error { return a.Respond(200, "Content-Length", "-1") }, "invalid Content-Length"},
		{"endless informational", func(a *agenttest.Agent) error {
			for {
				if err := a.Respond(103); err != nil {
					return err
				}
			}
		}, "too many informational"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newRequesterServer(t, tt.play)
			c := s.dial(t)
			for range 2 {
				c.send(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				resp := c.response(t, "GET")
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), tt.want) {
					t.Fatalf("%d %q, want %q", resp.StatusCode, body, tt.want)
				}
				o := s.outcome(t)
				var failure *httpgrpc.Error
				if !errors.As(o.err, &failure) || failure.Hop != fault.Agent || o.done || o.res.Committed {
					t.Fatalf("outcome %+v", o)
				}
			}
		})
	}
}

// Failures after the response header: the client must see that the body is not complete.
func TestRequester_FailsAfterHeader(t *testing.T) {
	begun := func(then script, header ...string) script {
		return func(a *agenttest.Agent) error {
			if err := a.Respond(200, header...); err != nil {
				return err
			}
			if err := a.Data("part"); err != nil {
				return err
			}
			return then(a)
		}
	}
	tests := []struct {
		name string
		play script
	}{
		{"OK without trailer", begun(func(*agenttest.Agent) error { return nil })},
		{"status", begun(func(*agenttest.Agent) error { return status.Error(codes.Canceled, "context canceled") })},
		{"second header", begun(func(a *agenttest.Agent) error { return a.Respond(200) })},
		{"upgrade data", begun(func(a *agenttest.Agent) error { return a.Upgraded("x") })},
		{"malformed data", begun(func(a *agenttest.Agent) error { return a.Send([]byte{0x12, 0x02, 0x0a, 0x7f}) })},
		{"more than its length", begun(func(a *agenttest.Agent) error { return a.Data("more") }, "Content-Length", "6")},
		{"less than its length", begun(func(a *agenttest.Agent) error { return a.Trailer() }, "Content-Length", "6")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newRequesterServer(t, tt.play)
			resp, err := http.Get(s.URL)
			if err == nil {
				defer resp.Body.Close()
				var body []byte
				body, err = io.ReadAll(resp.Body)
				if err == nil {
					t.Errorf("%q looks complete", body)
				}
			}
			if o := s.outcome(t); o.err == nil || o.done || !o.res.Committed {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestRequester_BodyForHead(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error { return a.Answer(200, "body") })
	c := s.dial(t)
	c.send(t, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
	if o := s.outcome(t); o.err == nil || o.done {
		t.Errorf("outcome %+v", o)
	}
}

func TestRequester_ClientGone(t *testing.T) {
	for _, committed := range []bool{false, true} {
		t.Run(fmt.Sprintf("committed=%t", committed), func(t *testing.T) {
			reached := make(chan struct{})
			s := newRequesterServer(t, func(a *agenttest.Agent) error {
				if _, _, err := a.Whole(); err != nil {
					return err
				}
				if committed {
					if err := a.Respond(200); err != nil {
						return err
					}
				}
				close(reached)
				<-a.Ctx.Done() // the call must be cancelled
				return a.Ctx.Err()
			})
			c := s.dial(t)
			c.send(t, "GET /watch HTTP/1.1\r\nHost: x\r\n\r\n")
			<-reached
			if committed {
				_ = c.response(t, "GET")
			}
			_ = c.Close()
			o := s.outcome(t)
			var failure *httpgrpc.Error
			if !errors.As(o.err, &failure) || failure.Hop != fault.Client || o.done {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestRequester_ClientAbortsUpload(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		_, err := a.Body(false)
		return err
	})
	c := s.dial(t)
	c.send(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	_ = c.Close()
	o := s.outcome(t)
	var failure *httpgrpc.Error
	// net/http ends the request's context with the connection: that may be noticed before the body's end is.
	if !errors.As(o.err, &failure) || failure.Hop != fault.Client || o.done {
		t.Errorf("outcome %+v: %v", o, o.err)
	}
}

// The cluster answers and reads no more of the body; the client is still sending and gets the answer.
func TestRequester_EarlyAnswer(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprintf("agent ends the call=%t", ends), func(t *testing.T) {
			s := newRequesterServer(t, func(a *agenttest.Agent) error {
				if _, err := a.Request(); err != nil {
					return err
				}
				if err := a.Answer(413, "too big"); err != nil {
					return err
				}
				if !ends {
					<-a.Ctx.Done()
				}
				return status.Error(codes.Canceled, "gRPC -> HTTP: request body write")
			})
			c := s.dial(t)
			c.send(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin")
			resp := c.response(t, "POST")
			if body, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "too big" || err != nil {
				t.Errorf("%v, %q, %v", resp, body, err)
			}
			if !resp.Close {
				t.Error("a connection with the rest of a body on it must close")
			}
			if o := s.outcome(t); o.err != nil || o.done || o.res.Status != 413 {
				t.Errorf("outcome %+v", o)
			}
			c.wantEnd(t)
		})
	}
}

func TestRequester_SlowClientHoldsItsOwnStreamOnly(t *testing.T) {
	const frames = 4096
	sent := make(chan int, 1)
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := a.Respond(200); err != nil {
			return err
		}
		for i := range frames {
			if err := a.Data(strings.Repeat("x", 32<<10)); err != nil {
				sent <- i
				return err
			}
		}
		sent <- frames
		return a.Trailer()
	})
	c := s.dial(t)
	c.send(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = c.response(t, "GET") // and reads nothing of the body
	s.cut(fault.New(fault.Unavailable, fault.Kas, "kas is shutting down"))
	s.CloseClientConnections()
	o := s.outcome(t)
	if n := <-sent; o.err == nil || n == frames {
		t.Errorf("outcome %+v after %d frames", o, n)
	}
}
