package wsconn

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const goodUpgrade = "Host: kas\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: yqOZu+1TNAm19Biw/Ce9mw==\r\n"

func TestMux_Upgrade(t *testing.T) {
	m := startMux(t, nil)
	p := rawDial(t, muxAddr(m))
	resp := p.request("GET /-/kubernetes-agent/?a=b HTTP/1.1\r\n" + goodUpgrade +
		"Sec-WebSocket-Protocol: other, ws-tunnel\r\nSec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: Bearer anything\r\n\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	for name, want := range map[string]string{
		"Server": "gitlab-kas/v1/test", "Sec-Websocket-Protocol": "ws-tunnel", "Upgrade": "websocket", "Connection": "Upgrade",
		"Sec-Websocket-Accept": "eMjugwYniCTfldR9UElGVx+91s0=", "Sec-Websocket-Extensions": "",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	server := accept(t, m)
	if _, err := server.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, payload := p.read(); string(payload) != "hello" {
		t.Errorf("got %q", payload)
	}
}

// A list may be spread over several lines, as some reverse proxies do it.
func TestMux_SubprotocolOnAnyLine(t *testing.T) {
	for name, header := range map[string]string{
		"first":  "Sec-WebSocket-Protocol: ws-tunnel\r\nSec-WebSocket-Protocol: other\r\n",
		"second": "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: another,ws-tunnel\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, nil)
			p := rawDial(t, muxAddr(m))
			resp := p.request("GET / HTTP/1.1\r\n" + goodUpgrade + header + "\r\n")
			if got := resp.Header["Sec-Websocket-Protocol"]; resp.StatusCode != http.StatusSwitchingProtocols || !slices.Equal(got, []string{Subprotocol}) {
				t.Fatalf("status %d, subprotocol %q", resp.StatusCode, got)
			}
			accept(t, m)
		})
	}
}

func TestMux_WrongSubprotocol(t *testing.T) {
	for name, header := range map[string]string{"absent": "", "another": "Sec-WebSocket-Protocol: chat\r\n"} {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, nil)
			p := rawDial(t, muxAddr(m))
			resp := p.request("GET / HTTP/1.1\r\n" + goodUpgrade + header + "\r\n")
			if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-Websocket-Protocol") != "" {
				t.Fatalf("status %d, header %v", resp.StatusCode, resp.Header)
			}
			p.wantClose(1002, wrongSubprotocol)
		})
	}
}

func TestMux_NotAnUpgrade(t *testing.T) {
	const key = "Sec-WebSocket-Key: yqOZu+1TNAm19Biw/Ce9mw==\r\n"
	tests := map[string]struct {
		request string
		code    int
		header  map[string]string
	}{
		"plain GET": {
			"GET /api/v1/pods HTTP/1.1\r\nHost: kas\r\n\r\n", 426,
			map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"},
		},
		"plain POST": {
			"POST / HTTP/1.1\r\nHost: kas\r\nContent-Length: 2\r\n\r\nhi", 426,
			map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"},
		},
		"OPTIONS *":     {"OPTIONS * HTTP/1.1\r\nHost: kas\r\n\r\n", 426, nil},
		"HTTP/1.0":      {"GET / HTTP/1.0\r\n" + goodUpgrade + "\r\n", 426, nil},
		"no Upgrade":    {"GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\n\r\n", 426, nil},
		"other Upgrade": {"GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 426, nil},
		"no Connection": {"GET / HTTP/1.1\r\nHost: kas\r\nUpgrade: websocket\r\n\r\n", 426, nil},
		"not GET":       {"POST / HTTP/1.1\r\n" + goodUpgrade + "Content-Length: 0\r\n\r\n", 405, map[string]string{"Allow": "GET"}},
		"no version": {
			"GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + "\r\n", 400,
			map[string]string{"Sec-Websocket-Version": "13"},
		},
		"other version": {
			"GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n" + key + "\r\n", 400,
			map[string]string{"Sec-Websocket-Version": "13"},
		},
		"no key": {
			"GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", 400,
			map[string]string{"Sec-Websocket-Version": ""},
		},
		"short key": {
			"GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
				"Sec-WebSocket-Key: YWJj\r\n\r\n", 400, nil,
		},
		"foreign Origin": {"GET / HTTP/1.1\r\n" + goodUpgrade + "Origin: https://evil.example.com\r\n\r\n", 403, nil},
		"broken Origin":  {"GET / HTTP/1.1\r\n" + goodUpgrade + "Origin: %zz\r\n\r\n", 403, nil},
		"own Origin":     {"GET / HTTP/1.1\r\n" + goodUpgrade + "Origin: https://KAS\r\nSec-WebSocket-Protocol: x\r\n\r\n", 101, nil},
	}
	m := startMux(t, func(cfg *MuxConfig) { cfg.KubernetesAPI = "https://kas.example.com/k8s-proxy/" })
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := rawDial(t, muxAddr(m))
			resp := p.request(test.request)
			if resp.StatusCode != test.code || resp.Header.Get("Server") != "gitlab-kas/v1/test" {
				t.Fatalf("status %d, header %v", resp.StatusCode, resp.Header)
			}
			for name, want := range test.header {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if test.code == http.StatusSwitchingProtocols {
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.TrimSuffix(string(body), "\n")
			if text == "" || strings.Contains(text, "\n") || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("body %q is not one line of text", body)
			}
			if test.code == 426 && !strings.Contains(text, "https://kas.example.com/k8s-proxy/") {
				t.Errorf("body %q does not say where the Kubernetes API is", text)
			}
		})
	}
}

func TestMux_NativeGRPCByPreface(t *testing.T) {
	m := startMux(t, nil)
	p := rawDial(t, muxAddr(m))
	for _, b := range []byte(preface) { // one byte at a time
		p.write([]byte{b})
	}
	p.write([]byte("and more"))
	server := accept(t, m)
	got := make([]byte, len(preface)+8)
	if _, err := io.ReadFull(server, got); err != nil || string(got) != preface+"and more" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := server.Write([]byte("settings")); err != nil {
		t.Fatal(err)
	}
	p.full(make([]byte, 8))
}

// A request that begins like the preface is still a request, and is answered without waiting for 24 bytes.
func TestMux_AlmostThePreface(t *testing.T) {
	m := startMux(t, nil)
	p := rawDial(t, muxAddr(m))
	if resp := p.request("PRI / HTTP/1.1\r\nHost: k\r\n\r\n"); resp.StatusCode != 426 {
		t.Errorf("status %d", resp.StatusCode)
	}
	p = rawDial(t, muxAddr(m))
	p.write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"))
	if b, err := io.ReadAll(p.conn); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("%q, %v", b, err)
	}
}

func TestMux_WebSocketOff(t *testing.T) {
	m := startMux(t, func(cfg *MuxConfig) { cfg.WebSocket = false })
	p := rawDial(t, muxAddr(m))
	p.write([]byte("GET / HTTP/1.1\r\n" + goodUpgrade + "\r\n"))
	if b, _ := io.ReadAll(p.conn); len(b) > 0 {
		t.Errorf("got %q, want a closed connection", b)
	}
	p = rawDial(t, muxAddr(m))
	p.write([]byte(preface))
	accept(t, m)
}

func TestMux_TLS(t *testing.T) {
	serverTLS, roots := authority(t, "127.0.0.1")
	tests := map[string]struct {
		webSocket bool
		offer     []string
		want      string // "grpc", "http" or "closed"
	}{
		"h2":                         {true, []string{"h2"}, "grpc"},
		"h2 preferred":               {true, []string{"http/1.1", "h2"}, "grpc"},
		"http/1.1":                   {true, []string{"http/1.1"}, "http"},
		"no ALPN":                    {true, nil, "http"},
		"h2, WebSocket off":          {false, []string{"h2"}, "grpc"},
		"http/1.1 and WebSocket off": {false, []string{"http/1.1"}, "closed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, func(cfg *MuxConfig) { cfg.TLS, cfg.WebSocket = serverTLS, test.webSocket })
			conn, err := tls.Dial("tcp", muxAddr(m), &tls.Config{RootCAs: roots, NextProtos: test.offer})
			if err != nil {
				if test.want != "closed" {
					t.Fatal(err)
				}
				return
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(testWait)); err != nil {
				t.Fatal(err)
			}
			switch test.want {
			case "grpc":
				server := accept(t, m)
				if _, err := conn.Write([]byte("PRI")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(server, make([]byte, 3)); err != nil {
					t.Fatal(err)
				}
			case "http":
				if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: kas\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				head := make([]byte, 12)
				if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 426" {
					t.Fatalf("%q, %v", head, err)
				}
			case "closed":
				if b, err := io.ReadAll(conn); len(b) > 0 {
					t.Fatalf("%q, %v", b, err)
				}
			}
		})
	}
}

// Some reverse proxies know by configuration what a server speaks, and offer nothing.
func TestMux_TLSWithoutALPN(t *testing.T) {
	serverTLS, roots := authority(t, "127.0.0.1")
	for name, webSocket := range map[string]bool{"WebSocket on": true, "WebSocket off": false} {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, func(cfg *MuxConfig) { cfg.TLS, cfg.WebSocket = serverTLS, webSocket })
			dial := func(say string) net.Conn {
				conn, err := tls.Dial("tcp", muxAddr(m), &tls.Config{RootCAs: roots})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				if err := conn.SetDeadline(time.Now().Add(testWait)); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(conn, say); err != nil {
					t.Fatal(err)
				}
				return conn
			}
			dial(preface + "frames")
			got := make([]byte, len(preface)+len("frames"))
			if _, err := io.ReadFull(accept(t, m), got); err != nil || string(got) != preface+"frames" {
				t.Errorf("%q, %v", got, err)
			}
			conn := dial("GET / HTTP/1.1\r\nHost: kas\r\n\r\n")
			head := make([]byte, 12)
			_, err := io.ReadFull(conn, head)
			if answered := err == nil && string(head) == "HTTP/1.1 426"; answered != webSocket {
				t.Errorf("%q, %v", head, err)
			}
		})
	}
}

func TestMux_TLSRefusesOldVersions(t *testing.T) {
	serverTLS, roots := authority(t, "127.0.0.1")
	m := startMux(t, func(cfg *MuxConfig) { cfg.TLS = serverTLS })
	conn, err := tls.Dial("tcp", muxAddr(m), &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}) //nolint:gosec // the point of the test
	if err == nil {
		conn.Close()
		t.Fatal("TLS 1.1 was accepted")
	}
}

// Whoever connects and says nothing, or too slowly, is gone at the end of the preamble.
func TestMux_SlowPreamble(t *testing.T) {
	serverTLS, _ := authority(t, "127.0.0.1")
	tests := map[string]struct {
		tls   bool
		start string
	}{
		"silent":                  {},
		"half a preface":          {start: "PRI * HTTP"},
		"half a request":          {start: "GET / HTTP/1.1\r\nHost:"},
		"silent TLS":              {tls: true},
		"half a TLS client hello": {tls: true, start: "\x16\x03\x01\x02\x00\x01"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := startMux(t, func(cfg *MuxConfig) {
				cfg.PreambleTimeout = 100 * time.Millisecond
				if test.tls {
					cfg.TLS = serverTLS
				}
			})
			p := rawDial(t, muxAddr(m))
			p.write([]byte(test.start))
			start := time.Now()
			_, _ = io.Copy(io.Discard, p.conn)
			if time.Since(start) > testWait/2 {
				t.Error("the connection was kept")
			}
		})
	}
}

func TestMux_SlowlorisPushesOutOnlyItself(t *testing.T) {
	m := startMux(t, func(cfg *MuxConfig) { cfg.MaxPreambles = 2; cfg.PreambleTimeout = testWait })
	for range 2 {
		rawDial(t, muxAddr(m)).write([]byte("PRI"))
	}
	p := rawDial(t, muxAddr(m)) // has to wait for the oldest to have had its second
	p.write([]byte(preface))
	start := time.Now()
	accept(t, m)
	if waited := time.Since(start); waited > testWait/2 {
		t.Errorf("waited %v", waited)
	}
}

func TestMux_ShuttingDown(t *testing.T) {
	m := startMux(t, nil)
	// Nobody accepts: the upgrade finishes, the tunnel waits, then the listener closes.
	p := rawUpgrade(t, muxAddr(m))
	m.GRPCListener().Close()
	p.wantClose(1001, "Shutting down")
	if conn, err := net.Dial("tcp", muxAddr(m)); err == nil {
		conn.Close()
		t.Error("still accepting")
	}
	if _, err := m.GRPCListener().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
}

func TestMux_ShutdownEndsPreambles(t *testing.T) {
	m := startMux(t, nil)
	p := rawDial(t, muxAddr(m))
	p.write([]byte("GET / HTTP/1.1\r\n"))
	m.GRPCListener().Close()
	_, _ = io.Copy(io.Discard, p.conn) // ends
}

func TestNewMux_NoListener(t *testing.T) {
	if _, err := NewMux(MuxConfig{}); err == nil {
		t.Error("no error")
	}
}

// failingListener fails for a while, then for good.
type failingListener struct {
	net.Listener
	errs []error
}

type temporary struct{ error }

func (temporary) Timeout() bool   { return false }
func (temporary) Temporary() bool { return true }

func (l *failingListener) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

func TestMux_AcceptFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	m, err := NewMux(MuxConfig{Listener: &failingListener{Listener: listener, errs: []error{
		temporary{errors.New("too many open files")}, temporary{errors.New("too many open files")}, broken,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
