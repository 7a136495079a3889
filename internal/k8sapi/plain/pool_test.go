package plain

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
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

var errWhy = errors.New("why it ends")

// The end of the context closes the connection, whatever is under way.
func TestPool_ContextEnds(t *testing.T) {
	for name, head := range map[string]string{
		"before the answer": "",
		"in the head":       "HTTP/1.1 200 OK\r\nContent-",
		"in the body":       "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
		"in a watch":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			said, closed := make(chan struct{}), make(chan bool, 1)
			c, s := dial(t, func(p *peer) {
				p.request()
				p.say(head)
				close(said)
				closed <- p.closed()
			}, answer(1, ok))
			req := c.request("GET")
			ctx, cancel := context.WithCancelCause(req.Context())
			go func() {
				<-said
				cancel(errWhy)
			}()
			resp, err := c.RoundTrip(req.WithContext(ctx))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if !errors.Is(err, errWhy) {
				t.Error(err)
			}
			if !<-closed {
				t.Error("the connection stays open")
			}
			c.want("GET", 200, "ok")
			s.connections(t, 2)
		})
	}
	t.Run("before the request", func(t *testing.T) {
		c, s := dial(t, answer(1, ok))
		req := c.request("GET")
		ctx, cancel := context.WithCancelCause(req.Context())
		cancel(errWhy)
		if _, err := c.RoundTrip(req.WithContext(ctx)); !errors.Is(err, errWhy) {
			t.Error(err)
		}
		s.connections(t, 0)
	})
}

// The end of the context after the answer does no harm to whoever uses the connection then.
func TestPool_ContextEndsAfterwards(t *testing.T) {
	c, s := dial(t, answer(2, ok))
	req := c.request("GET")
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := c.RoundTrip(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	next, err := c.RoundTrip(c.request("GET"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
	if text, err := io.ReadAll(next.Body); err != nil || string(text) != "ok" {
		t.Error(string(text), err)
	}
	s.connections(t, 1)
}

// A body that is closed before its end, also during a Read, takes the connection with it.
func TestPool_BodyClosedEarly(t *testing.T) {
	closed := make(chan bool, 1)
	c, s := dial(t, func(p *peer) {
		p.request()
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
		closed <- p.closed()
	}, answer(1, ok))
	resp, err := c.RoundTrip(c.request("GET"))
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := resp.Body.Read(first)
		read <- err
	}()
	_ = resp.Body.Close()
	if err := <-read; err == nil || err == io.EOF {
		t.Error(err)
	}
	if !<-closed {
		t.Error("the connection stays open")
	}
	if _, err := resp.Body.Read(first); !errors.Is(err, errBodyClosed) {
		t.Error(err)
	}
	c.want("GET", 200, "ok")
	s.connections(t, 2)
}

func TestPool_Crowded(t *testing.T) {
	s := serve(t, answer(9, ok))
	cfg := s.config()
	c := newClient(t, cfg)
	crowded := func() {
		t.Helper()
		if _, _, err := c.do("GET"); !errors.Is(err, ErrCrowded) {
			t.Error(err)
		}
	}
	cfg.Opening <- struct{}{}
	crowded()
	<-cfg.Opening
	c.want("GET", 200, "ok")
	cfg.Opening <- struct{}{}
	c.want("GET", 200, "ok") // on the connection that is there
	<-cfg.Opening
	for range cap(cfg.Places) {
		cfg.Places <- struct{}{}
	}
	crowded()
	for range cap(cfg.Places) {
		<-cfg.Places
	}
	s.connections(t, 1)
}

func TestPool_IdleTime(t *testing.T) {
	closed := make(chan bool, 1)
	s := serve(t, func(p *peer) {
		p.request()
		p.say(ok)
		closed <- p.closed()
	}, answer(1, ok))
	cfg := s.config()
	cfg.Idle = 10 * time.Millisecond
	c := newClient(t, cfg)
	c.want("GET", 200, "ok")
	if !<-closed {
		t.Error("the connection stays open")
	}
	c.want("GET", 200, "ok")
	s.connections(t, 2)
}

func TestPool_Close(t *testing.T) {
	hold := make(chan struct{})
	c, s := dial(t, func(p *peer) {
		p.request()
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		<-hold
		p.say("ok")
		p.closed()
	})
	resp, err := c.RoundTrip(c.request("GET"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	close(hold)
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "ok" {
		t.Error(string(text), err)
	}
	if len(c.idle) != 0 {
		t.Error("a connection is kept by a closed pool")
	}
	s.connections(t, 1)
	var none *Pool
	none.Close()
}

func TestPool_TLS(t *testing.T) {
	s := serve(t, answer(1, ok))
	cfg := s.config()
	cfg.TLS.RootCAs = x509.NewCertPool()
	if _, _, err := newClient(t, cfg).do("GET"); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Error(err)
	}
	cfg = s.config()
	cfg.TLS.ServerName = "other.test"
	if _, _, err := newClient(t, cfg).do("GET"); err == nil || !strings.Contains(err.Error(), "other.test") {
		t.Error(err)
	}
}

func TestPool_SilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	cfg := (&server{url: &url.URL{Scheme: "https", Host: l.Addr().String()}}).config()
	cfg.Handshake = 10 * time.Millisecond
	if _, _, err := newClient(t, cfg).do("GET"); err == nil || !strings.Contains(err.Error(), "TLS handshake took longer") {
		t.Error(err)
	}
	cfg.Handshake = waitLimit
	c := newClient(t, cfg)
	req := c.request("GET")
	ctx, cancel := context.WithCancelCause(req.Context())
	time.AfterFunc(time.Millisecond, func() { cancel(errWhy) })
	if _, err := c.RoundTrip(req.WithContext(ctx)); !errors.Is(err, errWhy) {
		t.Error(err)
	}
	_ = l.Close()
	if _, _, err := c.do("GET"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}

func TestNew_Unusual(t *testing.T) {
	for _, host := range []string{"http://a.test", "https://ä.test", "https://[fe80::1%25eth0]:6443", "https://", "https://a b"} {
		u := &url.URL{Host: strings.TrimPrefix(host, "https://"), Scheme: "https"}
		if strings.HasPrefix(host, "http:") {
			u = &url.URL{Host: "a.test", Scheme: "http"}
		}
		if New(Config{Server: u}) != nil {
			t.Errorf("%s is taken", host)
		}
	}
}

func TestTakes(t *testing.T) {
	p := New(Config{Server: &url.URL{Scheme: "https", Host: "a.test"}, TLS: (&server{}).config().TLS})
	for name, change := range map[string]func(*http.Request){
		"body":     func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("x")) },
		"length":   func(r *http.Request) { r.ContentLength = -1 },
		"encoding": func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
		"trailer":  func(r *http.Request) { r.Trailer = http.Header{"X": nil} },
		"close":    func(r *http.Request) { r.Close = true },
		"hop":      func(r *http.Request) { r.Header.Set("Connection", "close") },
		"upgrade":  func(r *http.Request) { r.Header.Set("Upgrade", "websocket") },
		"connect":  func(r *http.Request) { r.Method = http.MethodConnect },
		"scheme":   func(r *http.Request) { r.URL.Scheme = "http" },
		"host":     func(r *http.Request) { r.URL.Host = "b.test" },
		"opaque":   func(r *http.Request) { r.URL.Opaque = "//b.test/x" },
		"name":     func(r *http.Request) { r.Host = "b.test" },
	} {
		req, err := http.NewRequest(http.MethodGet, "https://a.test/x", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Takes(req) || (*Pool)(nil).Takes(req) {
			t.Fatal("the request is not judged at all")
		}
		if change(req); p.Takes(req) {
			t.Errorf("%s: taken", name)
		}
	}
}
