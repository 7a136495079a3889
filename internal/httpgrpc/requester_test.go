package httpgrpc_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
)

const patience = time.Minute

type script = func(a *agenttest.Agent) error

// outcome is what Do and Finish have said about one exchange.
type outcome struct {
	res  httpgrpc.Result
	err  error
	done bool
}

// requesterServer is an HTTP server whose requests go to agents that run scripts.
type requesterServer struct {
	*httptest.Server
	outcomes chan outcome
	cut      context.CancelCauseFunc
}

// prompted is the listener of a server that upgrades.
type prompted struct{ net.Listener }

func (p prompted) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return httpgrpc.Prompt(conn), nil
}

func newRequesterServer(t *testing.T, play script) *requesterServer {
	t.Helper()
	return startRequesterServer(t, play, false)
}

func startRequesterServer(t *testing.T, play script, secure bool) *requesterServer {
	t.Helper()
	base, cut := context.WithCancelCause(t.Context())
	s := &requesterServer{outcomes: make(chan outcome, 16), cut: cut}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := agenttest.Start(t, r.Context(), play)
		x := &httpgrpc.Exchange{
			Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Header: r.Header,
			ContentLength: r.ContentLength, Body: r.Body, Multiplexed: r.ProtoMajor >= 2,
			Respond: func(_ int, peer http.Header) { maps.Copy(w.Header(), peer) },
		}
		res, err := (&httpgrpc.Requester{Stream: call, Abort: call.Abort}).Do(r.Context(), w, x)
		call.Finish(res.Done)
		s.outcomes <- outcome{res: res, err: err, done: call.Finished()}
		if err != nil && res.Committed {
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	s.Config.BaseContext = func(net.Listener) context.Context { return base }
	s.Config.ErrorLog = nil
	s.Listener = prompted{s.Listener}
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		cut(nil)
		s.Close()
	})
	return s
}

// outcome waits for the end of the next exchange.
func (s *requesterServer) outcome(t *testing.T) outcome {
	t.Helper()
	select {
	case o := <-s.outcomes:
		return o
	case <-time.After(patience):
		t.Fatal("the exchange does not end")
		return outcome{}
	}
}

// client is a raw HTTP/1.1 connection.
type client struct {
	net.Conn
	r *bufio.Reader
}

func (s *requesterServer) dial(t *testing.T) *client {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &client{Conn: conn, r: bufio.NewReader(conn)}
}

func (c *client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func (c *client) response(t *testing.T, method string) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read response: %v", err)
	}
	return resp
}

func (c *client) want(t *testing.T, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c.r, got); err != nil {
		t.Fatalf("read %q: %v", want, err)
	}
	if string(got) != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func (c *client) wantEnd(t *testing.T) {
	t.Helper()
	rest, err := io.ReadAll(c.r)
	var timeout net.Error
	if len(rest) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("connection goes on: %q, %v", rest, err)
	}
}

// await waits for a step of a test, which may fail before.
func await(t *testing.T, step <-chan struct{}) error {
	select {
	case <-step:
		return nil
	case <-t.Context().Done():
		return t.Context().Err()
	}
}

// The head of a short answer waits for its body, but not for long.
func TestRequester_HeadAlone(t *testing.T) {
	seen := make(chan struct{})
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if _, _, err := a.Whole(); err != nil {
			return err
		}
		if err := a.Respond(200, "Content-Length", "10"); err != nil {
			return err
		}
		if err := await(t, seen); err != nil {
			return err
		}
		for _, half := range []string{"hello", "world"} {
			if err := a.Data(half); err != nil {
				return err
			}
		}
		return a.Trailer()
	})
	c := s.dial(t)
	for range 2 {
		c.send(t, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp := c.response(t, "GET"); resp.StatusCode != 200 || resp.ContentLength != 10 {
			t.Fatalf("%v", resp)
		}
		seen <- struct{}{}
		c.want(t, "helloworld")
		if o := s.outcome(t); o.err != nil || !o.done || o.res.Received != 10 {
			t.Errorf("outcome %+v", o)
		}
	}
}

// Nothing is flushed any more when the agent is lost between the head and the body.
func TestRequester_LostAfterHead(t *testing.T) {
	for _, wait := range []bool{false, true} {
		seen := make(chan struct{})
		s := newRequesterServer(t, func(a *agenttest.Agent) error {
			if _, _, err := a.Whole(); err != nil {
				return err
			}
			if err := a.Respond(200, "Content-Length", "10"); err != nil {
				return err
			}
			if wait {
				if err := await(t, seen); err != nil {
					return err
				}
			}
			return status.Error(codes.Unavailable, "gone")
		})
		c := s.dial(t)
		c.send(t, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
		if wait {
			c.response(t, "GET")
			close(seen)
		}
		if o := s.outcome(t); o.err == nil || o.done || !o.res.Committed {
			t.Errorf("outcome %+v", o)
		}
		if rest, err := io.ReadAll(c.r); strings.Contains(string(rest), "0\r\n\r\n") {
			t.Errorf("an answer that looks complete: %q, %v", rest, err)
		}
	}
}

func TestRequester_Get(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		h, body, err := a.Whole()
		if err != nil {
			return err
		}
		if h.GetRequest().GetMethod() != "GET" || h.GetRequest().GetUrlPath() != "/a b" || h.ContentLength == nil || *h.ContentLength != 0 || len(body) > 0 || h.Extra != nil {
			return fmt.Errorf("request: %v with %d bytes", h, len(body))
		}
		return a.Answer(200, "hello", "Content-Type", "text/plain", "X-Two", "2")
	})
	resp, err := http.Get(s.URL + "/a%20b?q=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || string(body) != "hello" || resp.Header.Get("X-Two") != "2" || err != nil {
		t.Errorf("%v %q %v", resp, body, err)
	}
	if o := s.outcome(t); o.err != nil || !o.done || o.res.Received != 5 || o.res.Status != 200 {
		t.Errorf("outcome %+v", o)
	}
}

func TestRequester_Body(t *testing.T) {
	for _, size := range []int{1, 32 << 10, 32<<10 + 1, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d chunked=%t", size, chunked), func(t *testing.T) {
				sent := bytes.Repeat([]byte("x"), size)
				s := newRequesterServer(t, func(a *agenttest.Agent) error {
					h, body, err := a.Whole()
					if err != nil {
						return err
					}
					if want := int64(size); !chunked && *h.ContentLength != want || chunked && *h.ContentLength != -1 {
						return fmt.Errorf("content_length %d", *h.ContentLength)
					}
					return a.Answer(201, fmt.Sprint(len(body)))
				})
				var body io.Reader = bytes.NewReader(sent)
				if chunked {
					body = io.MultiReader(body)
				}
				resp, err := http.Post(s.URL, "text/plain", body)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, _ := io.ReadAll(resp.Body)
				if string(got) != fmt.Sprint(size) {
					t.Errorf("agent got %q bytes", got)
				}
				if o := s.outcome(t); o.err != nil || !o.done || o.res.Sent != int64(size) {
					t.Errorf("outcome %+v", o)
				}
			})
		}
	}
}

func TestRequester_FullDuplex(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		for {
			member, data, err := a.Recv()
			if err != nil {
				return err
			}
			if member == agenttest.Trailer {
				return a.Trailer()
			}
			if err := a.Data("echo " + string(data)); err != nil {
				return err
			}
		}
	})
	c := s.dial(t)
	c.send(t, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	resp := c.response(t, "POST")
	for _, word := range []string{"a", "b", "c"} {
		got := make([]byte, len("echo a"))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "echo "+word {
			t.Fatalf("%q, %v", got, err)
		}
		if word != "c" {
			c.send(t, "1\r\n"+string(word[0]+1)+"\r\n")
		}
	}
	c.send(t, "0\r\n\r\n")
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v", rest, err)
	}
	if o := s.outcome(t); o.err != nil || !o.done {
		t.Errorf("outcome %+v", o)
	}
}

// A watch: each event must arrive although nothing follows it.
func TestRequester_FlushesLoneBytes(t *testing.T) {
	next := make(chan string)
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if _, _, err := a.Whole(); err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		for event := range next {
			if err := a.Data(event); err != nil {
				return err
			}
		}
		return a.Trailer()
	})
	resp, err := http.Get(s.URL) // returns after the header was flushed
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for range 3 {
		next <- "e"
		got := make([]byte, 1)
		if _, err := io.ReadFull(resp.Body, got); err != nil {
			t.Fatal(err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Fatalf("%q, %v", rest, err)
	}
}

// An answer of known length is complete with its last byte: the client has it before the agent has ended its side, and may leave then.
func TestRequester_LengthEndsTheAnswer(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		s := newRequesterServer(t, func(a *agenttest.Agent) error {
			if _, _, err := a.Whole(); err != nil {
				return err
			}
			if err := a.Respond(200, "Content-Length", "5"); err != nil {
				return err
			}
			if method == http.MethodGet {
				if err := a.Data("hello"); err != nil {
					return err
				}
			}
			<-a.Ctx.Done() // no trailer
			return a.Ctx.Err()
		})
		c := s.dial(t)
		c.send(t, method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp := c.response(t, method)
		body, err := io.ReadAll(resp.Body)
		if err != nil || method == http.MethodGet && string(body) != "hello" {
			t.Fatalf("%q, %v", body, err)
		}
		_ = c.Close()
		if o := s.outcome(t); o.err != nil || o.done || !o.res.Committed || o.res.Received != int64(len(body)) {
			t.Errorf("%s: outcome %+v", method, o)
		}
	}
}

func TestRequester_NoBodyResponses(t *testing.T) {
	tests := []struct {
		method string
		code   int32
		header []string
	}{
		{"HEAD", 200, []string{"Content-Length", "42"}},
		{"GET", 204, nil},
		{"GET", 304, []string{"Content-Length", "42"}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d", tt.method, tt.code), func(t *testing.T) {
			s := newRequesterServer(t, func(a *agenttest.Agent) error {
				if _, _, err := a.Whole(); err != nil {
					return err
				}
				return a.Answer(tt.code, "", tt.header...)
			})
			c := s.dial(t)
			for range 2 { // the connection can be used again
				c.send(t, tt.method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
				resp := c.response(t, tt.method)
				if body, err := io.ReadAll(resp.Body); resp.StatusCode != int(tt.code) || err != nil || len(body) > 0 {
					t.Fatalf("%v, %q, %v", resp, body, err)
				}
				if o := s.outcome(t); o.err != nil || !o.done {
					t.Fatalf("outcome %+v", o)
				}
			}
		})
	}
}

func TestRequester_NeverSniffsContentType(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error { return a.Answer(200, "<html><script>") })
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, ok := resp.Header["Content-Type"]; ok {
		t.Errorf("Content-Type %q", got)
	}
	// The agent ended the call without reading the request: that is no failure of the response.
	if o := s.outcome(t); o.err != nil {
		t.Errorf("outcome %+v", o)
	}
}

func TestRequester_StatusAfterTrailerIsIgnored(t *testing.T) {
	s := newRequesterServer(t, func(a *agenttest.Agent) error {
		if err := a.Answer(200, "all of it"); err != nil {
			return err
		}
		return status.Error(codes.Canceled, "gRPC -> HTTP: request body write: io: read/write on closed pipe")
	})
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "all of it" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}
