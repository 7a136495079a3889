package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// answering is a server that reads one request per connection and answers with bytes.
func answering(t *testing.T, answer string) string {
	t.Helper()
	return serving(t, func(conn net.Conn, _ *http.Request) { _, _ = io.WriteString(conn, answer) })
}

func serving(t *testing.T, handle func(net.Conn, *http.Request)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(testWait))
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					handle(conn, req)
				}
			})
		}
	})
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	return listener.Addr().String()
}

func TestDial_HelpfulErrors(t *testing.T) {
	const secret = "s3cr3t-value"
	page := "<html>\n<body>you sent: Bearer " + secret + strings.Repeat(" lorem ipsum", 200)
	tests := map[string]struct {
		answer string
		want   []string
	}{
		"301": {
			"HTTP/1.1 301 Moved Permanently\r\nLocation: /-/kubernetes-agent/\r\nContent-Length: 0\r\n\r\n",
			[]string{"expected handshake response status code 101 but got 301", "trailing slash", "/-/kubernetes-agent/"},
		},
		"302": {
			"HTTP/1.1 302 Found\r\nLocation: https://user:pw@other.example.com/x?token=abc\r\nContent-Length: 0\r\n\r\n",
			[]string{"got 302", "redirects are not followed", "https://other.example.com/x"},
		},
		"404": {"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n" + page, []string{"got 404", "does not route this path", "you sent: *** ***"}},
		"502": {"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", []string{"got 502", "kas is not running"}},
		"426": {"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", []string{"got 426", "removes the headers Upgrade and Connection"}},
		"407": {"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", []string{"got 407", "HTTPS_PROXY"}},
		"200": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", []string{"got 200", "web page"}},
		"101 of another kind": {
			"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
			[]string{"its headers are not those of a WebSocket"},
		},
		"no HTTP":        {"\x00\x00\x0f\x04\x00\x00\x00\x00\x00", []string{"scheme and port do not belong together"}},
		"endless header": {"HTTP/1.1 101 OK\r\n" + strings.Repeat("X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 4000), []string{"too long"}},
		"closed":         {"", []string{"EOF"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			addr := answering(t, test.answer)
			d := &Dialer{Header: http.Header{"Authorization": {"Bearer " + secret}}}
			conn, err := d.Dial(t.Context(), urlOf("ws", addr))
			if err == nil {
				conn.Close()
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not contain %q", err, want)
				}
			}
			for _, bad := range []string{secret, "pw@", "abc", "\n"} {
				if strings.Contains(err.Error(), bad) {
					t.Errorf("%q contains %q", err, bad)
				}
			}
			if len(err.Error()) > 600 {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
		})
	}
}

func TestDial_RefusesExtensionsAndSubprotocols(t *testing.T) {
	for header, want := range map[string]string{
		"Sec-WebSocket-Protocol: chat\r\n": "subprotocol",
		"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n": "extension",
		"Sec-WebSocket-Extensions: x-ours\r\n":  "extension",
		"":                                      "",
		"Sec-WebSocket-Protocol: ws-tunnel\r\n": "",
	} {
		addr := serving(t, func(conn net.Conn, r *http.Request) {
			if got := r.Header.Get("Sec-Websocket-Protocol"); got != Subprotocol {
				t.Errorf("offered %q", got)
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
				"Sec-WebSocket-Accept: "+acceptKey(r)+"\r\n"+header+"\r\n")
		})
		conn, err := (&Dialer{}).Dial(t.Context(), urlOf("ws", addr))
		if err == nil {
			conn.Close()
		}
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v", header, err)
		}
	}
}

func TestDial_RequestAsStockAgents(t *testing.T) {
	got := make(chan *http.Request, 1)
	addr := serving(t, func(_ net.Conn, r *http.Request) { got <- r })
	d := &Dialer{Header: http.Header{"User-Agent": {"gitlab-agent/v1/x"}, "X-Extra": {"a", "b"}}}
	if _, err := d.Dial(t.Context(), mustURL(t, "ws://"+addr+"/-/kubernetes-agent/?x=y")); err == nil {
		t.Fatal("no error")
	}
	r := <-got
	if r.Method != http.MethodGet || r.RequestURI != "/-/kubernetes-agent/?x=y" || r.Host != addr {
		t.Errorf("%s %s, Host %s", r.Method, r.RequestURI, r.Host)
	}
	for name, want := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Extensions": "",
		"User-Agent": "gitlab-agent/v1/x", "X-Extra": "a", "Origin": "",
	} {
		if r.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, r.Header.Get(name), want)
		}
	}
}

func TestDial_TLS(t *testing.T) {
	serverTLS, roots := authority(t, "kas.test")
	m := startMux(t, func(cfg *MuxConfig) { cfg.TLS = serverTLS })
	target := urlOf("wss", muxAddr(m))
	for name, test := range map[string]struct {
		conf *tls.Config
		want string
	}{
		"right name":      {&tls.Config{RootCAs: roots, ServerName: "kas.test"}, ""},
		"wrong name":      {&tls.Config{RootCAs: roots}, "127.0.0.1"},
		"unknown CA":      {&tls.Config{ServerName: "kas.test"}, "certificate signed by unknown authority"},
		"no verification": {&tls.Config{InsecureSkipVerify: true}, ""}, //nolint:gosec // the point of the test
	} {
		conn, err := (&Dialer{TLS: test.conf}).Dial(t.Context(), target)
		if err == nil {
			accept(t, m)
			conn.Close()
		}
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDial_SchemeMismatch(t *testing.T) {
	plain := startMux(t, nil)
	if _, err := (&Dialer{}).Dial(t.Context(), urlOf("wss", muxAddr(plain))); err == nil || !strings.Contains(err.Error(), "does not speak TLS") {
		t.Errorf("wss to a plain port: %v", err)
	}
	serverTLS, _ := authority(t, "127.0.0.1")
	secure := startMux(t, func(cfg *MuxConfig) { cfg.TLS = serverTLS })
	if _, err := (&Dialer{}).Dial(t.Context(), urlOf("ws", muxAddr(secure))); err == nil {
		t.Error("ws to a TLS port: no error")
	}
	if _, err := (&Dialer{}).Dial(t.Context(), urlOf("http", muxAddr(secure))); err == nil {
		t.Error("http: no error")
	}
}

func TestDial_ContextEnds(t *testing.T) {
	silent := serving(t, func(conn net.Conn, _ *http.Request) { _, _ = io.Copy(io.Discard, conn) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := (&Dialer{}).Dial(ctx, urlOf("ws", silent)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if time.Since(start) > testWait/2 {
		t.Error("took too long")
	}
}

// connectProxy is an HTTP proxy that knows CONNECT. It resolves every name to loopback.
func connectProxy(t *testing.T, user string, seen func(*http.Request)) string {
	t.Helper()
	return serving(t, func(conn net.Conn, r *http.Request) {
		seen(r)
		if r.Method != http.MethodConnect {
			_, _ = io.WriteString(conn, "HTTP/1.1 405 Method Not Allowed\r\n\r\n")
			return
		}
		if user != "" && r.Header.Get("Proxy-Authorization") != user {
			_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, port, _ := net.SplitHostPort(r.Host)
		far, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\n\r\n")
			return
		}
		defer far.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
		go func() { _, _ = io.Copy(far, conn); far.Close() }()
		_, _ = io.Copy(conn, far)
	})
}

func TestDial_ThroughProxy(t *testing.T) {
	serverTLS, roots := authority(t, "kas.test")
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			m := startMux(t, func(cfg *MuxConfig) {
				if scheme == "wss" {
					cfg.TLS = serverTLS
				}
			})
			asked := make(chan string, 1)
			addr := connectProxy(t, "Basic bWU6cGFzcw==", func(r *http.Request) { asked <- r.Host })
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
				t.Setenv(name, "http://me:pass@"+addr)
			}
			t.Setenv("NO_PROXY", "")
			_, port, _ := net.SplitHostPort(muxAddr(m))
			d := &Dialer{TLS: &tls.Config{RootCAs: roots}}
			conn, err := d.Dial(t.Context(), urlOf(scheme, "kas.test:"+port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := <-asked; got != "kas.test:"+port {
				t.Errorf("the proxy was asked for %q", got)
			}
			server := accept(t, m)
			if _, err := server.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
			server.Close()
		})
	}
}

func TestDial_ProxyErrors(t *testing.T) {
	addr := connectProxy(t, "never", func(*http.Request) {})
	for name, test := range map[string]struct{ proxy, want string }{
		"wants a password": {"http://me:hunter2@" + addr, "407"},
		"not a URL":        {"http://me:hunter2@[::1", "proxy"},
		"unknown scheme":   {"gopher://me:hunter2@" + addr, "not supported"},
		"not there":        {"http://me:hunter2@127.0.0.1:1", "127.0.0.1:1"},
		"no HTTP":          {"http://me:hunter2@" + answering(t, "SSH-2.0\r\n"), "answer of proxy"},
		"refuses":          {"http://me:hunter2@" + answering(t, "HTTP/1.1 403 Forbidden\r\n\r\n"), "status 403"},
		"no TLS":           {"https://me:hunter2@" + addr, "TLS handshake with proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HTTP_PROXY", test.proxy)
			t.Setenv("NO_PROXY", "")
			_, err := (&Dialer{}).Dial(t.Context(), urlOf("ws", "kas.test:8150"))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The environment is read for every dial, not once per process as net/http does.
func TestProxyFromEnvironment(t *testing.T) {
	target := &url.URL{Scheme: "https", Host: "kas.example.com"}
	for _, test := range []struct{ proxy, noProxy, want string }{
		{"http://p1:3128", "", "http://p1:3128"},
		{"http://p2:3128", "", "http://p2:3128"},
		{"p3:3128", "", "http://p3:3128"},
		{"http://p1:3128", ".example.com", ""},
		{"http://p1:3128", "kas.example.com:443", ""},
		{"", "", ""},
	} {
		t.Setenv("HTTPS_PROXY", test.proxy)
		t.Setenv("NO_PROXY", test.noProxy)
		got, err := ProxyFromEnvironment(target)
		if err != nil {
			t.Fatal(err)
		}
		if shown := fmt.Sprint(got); (got == nil && test.want != "") || (got != nil && shown != test.want) {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

// A server that speaks first, as gRPC servers do, may do so in the same packet as the proxy's answer.
func TestDialThrough_KeepsWhatCameWithTheAnswer(t *testing.T) {
	addr := answering(t, "HTTP/1.1 200 OK\r\n\r\nsettings")
	conn, err := DialThrough(t.Context(), "kas.test:1", &url.URL{Scheme: "http", Host: addr}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, []byte("settings")) {
		t.Errorf("%q, %v", got, err)
	}
}
