package gitaly

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gitaly"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// addressBed is a server on a unix socket, in the clear and with TLS, and a client that trusts it.
func addressBed(t *testing.T) (b *bed, client *Client, plain, secure string) {
	t.Helper()
	cert, roots, _ := selfSigned(t)
	b = newBed(t, func(c *double.Config) {
		c.Certificate = &cert
		c.Socket = filepath.Join(t.TempDir(), "a b%20c.sock")
	})
	fixture(b)
	client, err := New(Config{Roots: roots, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return b, client, strings.TrimPrefix(b.server.TCPAddress(), "tcp://127.0.0.1:"), strings.TrimPrefix(b.server.TLSAddress(), "tls://127.0.0.1:")
}

func TestTransport_EveryAddress(t *testing.T) {
	b, client, plain, secure := addressBed(t)
	ns := nameServerFor(t, "gitaly.test.")
	for _, address := range []string{
		"tcp://127.0.0.1:" + plain, "tcp://localhost:" + plain, "tls://127.0.0.1:" + secure, "tls://localhost:" + secure,
		b.server.UnixAddress(), strings.Replace(b.server.UnixAddress(), "unix:", "unix://", 1),
		"dns:127.0.0.1:" + plain, "dns:localhost:" + plain, "dns:///localhost:" + plain, "dns::" + plain, "dns://" + ns + "/gitaly.test:" + plain,
		"dns+tls:127.0.0.1:" + secure, "dns+tls:///localhost:" + secure,
	} {
		p := b.on("full", "main")
		p.Gitaly.Address = address
		got, err := client.Head(t.Context(), p)
		if err != nil || got != b.oid("full", "main") {
			t.Errorf("%s: got %q, %v", address, got, err)
		}
	}
}

func TestTransport_BadServers(t *testing.T) {
	b, client, plain, secure := addressBed(t)
	ns := nameServerFor(t, "gitaly.test.")
	for address, want := range map[string]string{
		"tls://127.0.0.1:" + plain:                        "",
		"dns+tls://" + ns + "/gitaly.test:" + secure:      "x509", // verified for the host, which the certificate does not name
		"tcp://127.0.0.1:" + secure:                       "",
		"dns://" + ns + "/other.test:" + plain:            "",
		"unix:" + filepath.Join(b.root, "none", "n.sock"): "no such file",
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			p := b.on("full", "main")
			p.Gitaly.Address = address
			_, err := client.Head(t.Context(), p)
			b.wantKind(err, fault.Unavailable, want)
		})
	}
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		p := b.on("full", "main")
		p.Gitaly.Address = b.server.TLSAddress()
		_, err := b.client.Head(t.Context(), p)
		b.wantKind(err, fault.Unavailable, "x509")
	})
}

// TestTransport_NoALPN: balancers that end TLS may negotiate no protocol.
func TestTransport_NoALPN(t *testing.T) {
	cert, roots, _ := selfSigned(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	gitalypb.RegisterSmartHTTPServiceServer(server, &liar{advertisement: start + flush})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		<-done
	}()
	client, err := New(Config{Roots: roots, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	b := newBed(t, nil)
	p := b.project("x")
	p.Gitaly.Address = "tls://" + listener.Addr().String()
	got, err := client.Head(t.Context(), p)
	if err != nil || got != "" {
		t.Errorf("got %q, %v", got, err)
	}
}

// nameServerFor serves one name, which is this machine.
func nameServerFor(t *testing.T, name string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			q := m.Questions[0]
			switch {
			case q.Name.String() != name:
				m.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
				m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			if packed, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestTransport_Clock(t *testing.T) {
	server := newClock()
	b := newBed(t, func(c *double.Config) { c.Now = server.Now })
	fixture(b)
	for offset, ok := range map[time.Duration]bool{0: true, -29 * time.Second: true, 29 * time.Second: true, -32 * time.Second: false, 32 * time.Second: false} {
		b.clock.Add(offset)
		_, err := b.client.Head(t.Context(), b.on("full", "main"))
		b.clock.Add(-offset)
		if ok && err != nil {
			t.Errorf("%v: %v", offset, err)
		}
		if !ok {
			b.wantKind(err, fault.Unavailable, "refuses kas")
		}
	}
}

func TestTransport_Secrets(t *testing.T) {
	for _, test := range []struct {
		server, client string
		ok             bool
	}{{"a", "a", true}, {"", "a", true}, {"", "", true}, {"a", "", false}, {"a", "b", false}, {"a", "a\n", false}} {
		b := newBed(t, func(c *double.Config) { c.Token = test.server })
		fixture(b)
		p := b.on("full", "main")
		p.Gitaly.Token = test.client
		_, err := b.client.Head(t.Context(), p)
		if test.ok && err != nil {
			t.Errorf("%+v: %v", test, err)
		}
		if !test.ok {
			b.wantKind(err, fault.Unavailable, "refuses kas")
		}
		if sent := b.server.Calls("")[0].Metadata.Get("authorization"); (test.client == "") != (sent == nil) {
			t.Errorf("%+v: sent %v", test, sent)
		}
	}
}

func TestTransport_Metadata(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	p := b.on("full", "main")
	p.Gitaly.Features = map[string]string{
		"gitaly-feature-a-b": "true", "gitaly-feature-c": "false", "authorization": "Bearer x", "gitaly-feature-bin": "é", "gitaly-feature-x-bin": "eA==",
		"gitaly-feature-": "1", "Gitaly-Feature-D": "true", "gitaly-feature-e f": "true", "x-gitlab-client-name": "x", "gitaly-feature-g": "a\nb",
		routeKey: primaryOnly,
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer agent-token", "gitaly-feature-z", "true")
	for range 2 {
		if _, err := b.client.Head(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	calls := b.server.Calls("")
	md := calls[0].Metadata
	for key, want := range map[string]string{
		"gitaly-feature-a-b": "true", "gitaly-feature-c": "false", "x-gitlab-client-name": "gitlab-kas",
	} {
		if got := strings.Join(md.Get(key), ","); got != want {
			t.Errorf("%s: %q", key, got)
		}
	}
	flags := 0
	for key, values := range md {
		if strings.HasPrefix(key, featurePrefix) {
			flags++
		}
		if len(values) != 1 {
			t.Errorf("%s: %v", key, values)
		}
	}
	if flags != 2 || md.Get(routeKey) != nil || !strings.HasPrefix(md.Get("authorization")[0], "Bearer v2.") {
		t.Errorf("sent %v", md)
	}
	first, second := md.Get(correlationKey), calls[1].Metadata.Get(correlationKey)
	if len(first) != 1 || len(first[0]) != 32 || len(second) != 1 || first[0] == second[0] {
		t.Errorf("correlation ids %v, %v", first, second)
	}
}

func TestAppendCertificates(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for range 3 {
		_, _, pem := selfSigned(t)
		sub := filepath.Join(dir, string(rune('a'+len(files))))
		files = append(files, filepath.Join(sub, "ca.pem"))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[len(files)-1], pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, want := x509.NewCertPool(), x509.NewCertPool()
	appendCertificates(got, files[0], filepath.Dir(files[1])+":"+filepath.Join(dir, "none")+":"+filepath.Dir(files[2]))
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want.AppendCertsFromPEM(pem)
	}
	if !got.Equal(want) {
		t.Error("not all certificates were added")
	}
	appendCertificates(got, "", "")
}
