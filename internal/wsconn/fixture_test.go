package wsconn

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

const testWait = time.Minute

// startMux serves a Mux on loopback; adjust may change its configuration.
func startMux(t *testing.T, adjust func(*MuxConfig)) *Mux {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := MuxConfig{Listener: listener, WebSocket: true, Server: "gitlab-kas/v1/test"}
	if adjust != nil {
		adjust(&cfg)
	}
	m, err := NewMux(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(context.Background()) }()
	t.Cleanup(func() {
		m.GRPCListener().Close()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(testWait):
			t.Error("Run does not end")
		}
	})
	return m
}

func muxAddr(m *Mux) string { return m.GRPCListener().Addr().String() }

// accept takes the next connection of the gRPC listener.
func accept(t *testing.T, m *Mux) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	got := make(chan result, 1)
	go func() {
		conn, err := m.GRPCListener().Accept()
		got <- result{conn, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			t.Fatalf("accept: %v", r.err)
		}
		t.Cleanup(func() { r.conn.Close() })
		return r.conn
	case <-time.After(testWait):
		m.GRPCListener().Close()
		t.Fatal("no connection was accepted")
		return nil
	}
}

// pair is a tunnel: the agent's end and kas' end.
func pair(t *testing.T) (client, server *Conn) {
	t.Helper()
	m := startMux(t, nil)
	client = dial(t, m)
	return client, accept(t, m).(*Conn)
}

func dial(t *testing.T, m *Mux) *Conn {
	t.Helper()
	c, err := (&Dialer{}).Dial(t.Context(), mustURL(t, "ws://"+muxAddr(m)+"/any/path/"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// rawPeer is a WebSocket client made of bytes.
type rawPeer struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
}

// rawUpgrade opens a WebSocket by hand.
func rawUpgrade(t *testing.T, addr string) *rawPeer {
	t.Helper()
	p := rawDial(t, addr)
	resp := p.request("GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: yqOZu+1TNAm19Biw/Ce9mw==\r\nSec-WebSocket-Protocol: ws-tunnel\r\n\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return p
}

func rawDial(t *testing.T, addr string) *rawPeer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testWait)); err != nil {
		t.Fatal(err)
	}
	return &rawPeer{t: t, conn: conn, br: bufio.NewReader(conn)}
}

func (p *rawPeer) request(text string) *http.Response {
	p.t.Helper()
	p.write([]byte(text))
	resp, err := http.ReadResponse(p.br, &http.Request{Method: http.MethodGet})
	if err != nil {
		p.t.Fatalf("answer: %v", err)
	}
	return resp
}

func (p *rawPeer) write(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// frame sends one frame masked with zeroes.
func (p *rawPeer) frame(first byte, payload []byte) {
	p.t.Helper()
	p.write(append(frameHeader(first, uint64(len(payload))), payload...))
}

// frameHeader is the header of a masked frame whose mask is zero.
func frameHeader(first byte, length uint64) []byte {
	h := []byte{first}
	switch {
	case length < 126:
		h = append(h, 0x80|byte(length))
	case length < 1<<16:
		h = binary.BigEndian.AppendUint16(append(h, 0x80|126), uint16(length))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 0x80|127), length)
	}
	return append(h, 0, 0, 0, 0)
}

// read takes one unmasked frame.
func (p *rawPeer) read() (first byte, payload []byte) {
	p.t.Helper()
	var h [2]byte
	p.full(h[:])
	length := uint64(h[1])
	switch length {
	case 126:
		var ext [2]byte
		p.full(ext[:])
		length = uint64(binary.BigEndian.Uint16(ext[:]))
	case 127:
		var ext [8]byte
		p.full(ext[:])
		length = binary.BigEndian.Uint64(ext[:])
	}
	payload = make([]byte, length)
	p.full(payload)
	return h[0], payload
}

func (p *rawPeer) full(b []byte) {
	p.t.Helper()
	if _, err := io.ReadFull(p.br, b); err != nil {
		p.t.Fatalf("read frame: %v", err)
	}
}

// wantClose reads a close frame.
func (p *rawPeer) wantClose(code int, reason string) {
	p.t.Helper()
	first, payload := p.read()
	if first != 0x88 || len(payload) < 2 {
		p.t.Fatalf("got frame %#x %q, want close", first, payload)
	}
	if got := int(binary.BigEndian.Uint16(payload)); got != code || string(payload[2:]) != reason {
		p.t.Fatalf("closed with %d %q, want %d %q", got, payload[2:], code, reason)
	}
}

// authority is a private CA and a server certificate for the given names.
func authority(t *testing.T, names ...string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	caKey, caCert := certificate(t, nil, nil, nil)
	key, cert := certificate(t, caCert, caKey, names)
	pool := x509.NewCertPool()
	pool.AddCert(caCert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}, pool
}

func certificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey, names []string) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if parent == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func urlOf(scheme, host string) *url.URL { return &url.URL{Scheme: scheme, Host: host, Path: "/"} }

// acceptKey is the proof that a server has read the client's nonce.
func acceptKey(r *http.Request) string {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455
	return base64.StdEncoding.EncodeToString(sum[:])
}
