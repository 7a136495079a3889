package plain

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const waitLimit = 20 * time.Second

// script plays the server on one connection, which is closed afterwards.
type script func(*peer)

// peer is the server's end of a connection.
type peer struct {
	*tls.Conn
	in *bufio.Reader
}

// request reads one, or says false at the end of the connection.
func (p *peer) request() bool {
	_, err := http.ReadRequest(p.in)
	return err == nil
}

func (p *peer) say(text string) { _, _ = io.WriteString(p.Conn, text) }

// answer says the same to a number of requests, and waits for the client to close.
func answer(n int, text string) script {
	return func(p *peer) {
		for range n {
			if !p.request() {
				return
			}
			p.say(text)
		}
		_, _ = io.Copy(io.Discard, p.in)
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// server is a TLS server whose nth connection plays the nth script, and the last one again from then on.
type server struct {
	url      *url.URL
	roots    *x509.CertPool
	accepted atomic.Int64
}

func serve(t testing.TB, scripts ...script) *server {
	t.Helper()
	source := httptest.NewUnstartedServer(nil)
	source.StartTLS()
	defer source.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: source.TLS.Certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{url: &url.URL{Scheme: "https", Host: l.Addr().String()}, roots: x509.NewCertPool()}
	s.roots.AddCert(source.Certificate())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			play := scripts[min(int(s.accepted.Add(1)), len(scripts))-1]
			_ = c.SetDeadline(time.Now().Add(waitLimit))
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				play(&peer{Conn: c.(*tls.Conn), in: bufio.NewReader(c)})
			})
		}
	})
	t.Cleanup(func() { // after that of the pool, whose connections the scripts wait for
		_ = l.Close()
		wg.Wait()
	})
	return s
}

// config is that of a Pool for s.
func (s *server) config() Config {
	return Config{
		Server: s.url, TLS: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}, Dial: (&net.Dialer{}).DialContext, Handshake: waitLimit, Idle: time.Hour,
		MaxHeader: 64 << 10, Buffer: 4 << 10, Places: make(chan struct{}, 4), Opening: make(chan struct{}, 1),
	}
}

// client is a Pool under test.
type client struct {
	*Pool
	t *testing.T
}

// newClient returns a Pool. In the end no place is taken.
func newClient(t *testing.T, cfg Config) *client {
	t.Helper()
	p := New(cfg)
	if p == nil {
		t.Fatal("no pool")
	}
	t.Cleanup(func() {
		p.Close()
		if n := len(cfg.Places) + len(cfg.Opening); n > 0 {
			t.Errorf("%d places stay taken", n)
		}
	})
	return &client{Pool: p, t: t}
}

// dial returns a Pool for a server with these scripts.
func dial(t *testing.T, scripts ...script) (*client, *server) {
	t.Helper()
	s := serve(t, scripts...)
	return newClient(t, s.config()), s
}

func (c *client) request(method string) *http.Request {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	c.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.host+"/api", http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	if !c.Takes(req) {
		c.t.Fatal("the pool does not take the request")
	}
	return req
}

// do performs a request; the text is the body, as far as it came.
func (c *client) do(method string) (*http.Response, string, error) {
	c.t.Helper()
	resp, err := c.RoundTrip(c.request(method))
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(resp.Body)
	if closeErr := resp.Body.Close(); closeErr != nil {
		c.t.Error(closeErr)
	}
	return resp, string(text), err
}

// want performs a request that is answered.
func (c *client) want(method string, status int, body string) *http.Response {
	c.t.Helper()
	resp, got, err := c.do(method)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != status || got != body {
		c.t.Fatalf("got %d %q", resp.StatusCode, got)
	}
	return resp
}

// arrived waits until something has come in on the connection that is kept.
func (c *client) arrived() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(time.Millisecond) {
		var peeked error
		if err := c.idle[0].wire.raw.Read(func(fd uintptr) bool {
			_, _, peeked = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
			return true
		}); err != nil {
			c.t.Fatal(err)
		}
		if !errors.Is(peeked, syscall.EAGAIN) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatal("nothing arrives")
		}
	}
}

// connections checks how many the client has opened.
func (s *server) connections(t *testing.T, want int64) {
	t.Helper()
	if got := s.accepted.Load(); got != want {
		t.Errorf("%d connections, want %d", got, want)
	}
}

// closed waits for the client to close the connection.
func (p *peer) closed() bool {
	_, err := io.Copy(io.Discard, p.in)
	var late net.Error
	return !errors.As(err, &late) || !late.Timeout()
}
