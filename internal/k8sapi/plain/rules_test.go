package plain

import (
	"context"
	"crypto/tls"
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

// Looking at a kept connection works with either version: one sends session tickets after the handshake, the other does not.
func TestPool_TLSVersions(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := serve(t, answer(3, ok))
		cfg := s.config()
		cfg.TLS.MinVersion, cfg.TLS.MaxVersion = version, version
		c := newClient(t, cfg)
		for range 3 {
			if resp := c.want("GET", 200, "ok"); resp.TLS.Version != version {
				t.Errorf("version %x", resp.TLS.Version)
			}
		}
		s.connections(t, 1)
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

// A small answer is here with its head.
func TestBody_Buffered(t *testing.T) {
	c, _ := dial(t, answer(1, ok))
	resp, err := c.RoundTrip(c.request("GET"))
	if err != nil {
		t.Fatal(err)
	}
	b := resp.Body.(*body)
	if n := b.Buffered(); n != 2 {
		t.Errorf("%d bytes are here", n)
	}
	if _, err := io.ReadAll(b); err != nil {
		t.Error(err)
	}
	if n := b.Buffered(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}
