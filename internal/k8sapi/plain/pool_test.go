package plain

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestPool_KeepsConnections(t *testing.T) {
	for name, tc := range map[string]struct {
		method, answer string
		status         int
		body           string
		kept           bool
	}{
		"length":           {"GET", ok, 200, "ok", true},
		"empty":            {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "", true},
		"chunked":          {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok", true},
		"head":             {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 200, "", true},
		"204":              {"DELETE", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true},
		"304":              {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, "", true},
		"empty post":       {"POST", ok, 200, "ok", true},
		"informational":    {"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok, 200, "ok", true},
		"close":            {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		"HTTP/1.0":         {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false},
		"left over":        {"GET", ok + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 200, "ok", false},
		"left after empty": {"GET", "HTTP/1.1 204 No Content\r\n\r\n" + ok, 204, "", false},
		"unasked upgrade":  {"GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 101, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := dial(t, answer(9, tc.answer))
			for range 3 {
				resp := c.want(tc.method, tc.status, tc.body)
				if resp.TLS == nil || resp.Request == nil {
					t.Error("an answer without its connection or request")
				}
			}
			if tc.kept {
				s.connections(t, 1)
			} else {
				s.connections(t, 3)
			}
		})
	}
}

func TestPool_AnswerUntilTheEnd(t *testing.T) {
	until := func(p *peer) {
		p.request()
		p.say("HTTP/1.1 200 OK\r\n\r\nok")
	}
	c, s := dial(t, until)
	c.want("GET", 200, "ok")
	c.want("GET", 200, "ok")
	s.connections(t, 2)
}

func TestPool_Trailer(t *testing.T) {
	c, _ := dial(t, answer(1, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"))
	if resp := c.want("GET", 200, "ok"); resp.Trailer.Get("X-Sum") != "7" {
		t.Error(resp.Trailer)
	}
}

// What the server does to a connection while nobody uses it reaches no request, not even one that may not be repeated.
func TestPool_IdleConnection(t *testing.T) {
	for name, last := range map[string]func(*peer){
		"closes":            func(p *peer) { _ = p.Close() },
		"resets":            func(p *peer) { _ = p.NetConn().(*net.TCPConn).SetLinger(0); _ = p.NetConn().Close() },
		"ends without word": func(p *peer) { _ = p.NetConn().Close() },
		"is tired":          func(p *peer) { p.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"); _ = p.Close() },
		"is tired, stays":   func(p *peer) { p.say("HTTP/1.1 408 Request Timeout\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			proceed, done := make(chan struct{}), make(chan struct{})
			c, s := dial(t, func(p *peer) {
				p.request()
				p.say(ok)
				<-proceed
				last(p)
				close(done)
				_, _ = io.Copy(io.Discard, p.in)
			}, answer(1, ok))
			c.want("GET", 200, "ok")
			close(proceed)
			<-done
			c.arrived()
			c.want("DELETE", 200, "ok")
			s.connections(t, 2)
		})
	}
}

// A kept connection that breaks under a request: what may be repeated is.
func TestPool_KeptConnectionBreaks(t *testing.T) {
	breaks := func(p *peer) {
		p.request()
		p.say(ok)
		p.request()
	}
	for method, repeated := range map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "DELETE": false, "POST": false} {
		t.Run(method, func(t *testing.T) {
			second := ok
			if method == "HEAD" {
				second = "HTTP/1.1 200 OK\r\n\r\n"
			}
			c, s := dial(t, breaks, answer(1, second))
			c.want("GET", 200, "ok")
			_, _, err := c.do(method)
			if repeated {
				if err != nil {
					t.Error(err)
				}
				s.connections(t, 2)
				return
			}
			if err == nil || !strings.Contains(err.Error(), "ended before the answer") {
				t.Error(err)
			}
			s.connections(t, 1)
		})
	}
	t.Run("with a key", func(t *testing.T) {
		c, s := dial(t, breaks, answer(1, ok))
		c.want("GET", 200, "ok")
		req := c.request("POST")
		req.Header.Set("Idempotency-Key", "x")
		resp, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		s.connections(t, 2)
	})
}

// All kept connections may be dead; a request tries each at most once, and a new one last.
func TestPool_AllKeptConnectionsBreak(t *testing.T) {
	var gate [3]chan struct{}
	for i := range gate {
		gate[i] = make(chan struct{})
	}
	breaks := func(i int) script {
		return func(p *peer) {
			p.request()
			<-gate[i]
			p.say(ok)
			p.request()
		}
	}
	c, s := dial(t, breaks(0), breaks(1), breaks(2), answer(1, ok))
	results := make(chan error, len(gate))
	for i := range gate {
		go func() {
			_, _, err := c.do("GET")
			results <- err
		}()
		for deadline := time.Now().Add(waitLimit); s.accepted.Load() < int64(i+1) || len(c.cfg.Opening) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no connection")
			}
		}
	}
	for i := range gate {
		close(gate[i])
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	c.want("GET", 200, "ok")
	s.connections(t, 4)
}

func TestPool_BadAnswers(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"none":          {"", "ended before the answer: EOF"},
		"half a head":   {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", "unexpected EOF"},
		"garbage":       {"SSH-2.0-OpenSSH\r\n\r\n", "malformed HTTP"},
		"bad header":    {"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "malformed MIME header"},
		"bad length":    {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad Content-Length"},
		"two lengths":   {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "Content-Length"},
		"large head":    {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70<<10) + "\r\n\r\n", "exceeds 65536 bytes"},
		"many headers":  {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 20<<10), "exceeds 65536 bytes"},
		"1xx flood":     {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 10<<10), "exceeds 65536 bytes"},
		"half a body":   {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "unexpected EOF"},
		"half a chunk":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "unexpected EOF"},
		"bad chunk":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "invalid byte in chunk length"},
		"chunk no more": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := dial(t, func(p *peer) {
				p.request()
				p.say(tc.text)
			}, answer(1, ok))
			if _, _, err := c.do("GET"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatal(err)
			}
			s.connections(t, 1) // a new connection that fails is not tried again
			c.want("GET", 200, "ok")
			s.connections(t, 2)
		})
	}
}

// An answer that comes byte by byte is one like any other, and so is a body larger than any buffer.
func TestPool_SlowAndLarge(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 64<<10)
	c, s := dial(t, func(p *peer) {
		p.request()
		for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n") {
			p.say(string(b))
		}
		p.say(large)
		answer(1, ok)(p)
	})
	c.want("GET", 200, large)
	c.want("GET", 200, "ok")
	s.connections(t, 1)
}

// The server may refuse a connection before it has read anything.
func TestPool_AnswerWithoutReading(t *testing.T) {
	c, _ := dial(t, func(p *peer) {
		p.say("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy")
		p.closed()
	})
	c.want("GET", 503, "busy")
}
