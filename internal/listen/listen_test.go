package listen

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// writePair writes a fresh self-signed certificate with a serial number, and its key.
func writePair(t *testing.T, dir string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"kas.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		// By renaming, as whoever renews certificates does.
		if err = os.WriteFile(file+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err = os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// accept makes the TLS handshakes of a listener until it closes.
func accept(t *testing.T, ln net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if tc, ok := conn.(*tls.Conn); ok {
				_ = tc.HandshakeContext(context.Background())
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
}

func TestOpen_TLS(t *testing.T) {
	cert, key := writePair(t, t.TempDir(), 1)
	ln, err := Open(t.Context(), Config{Network: "tcp", Address: "127.0.0.1:0", CertificateFile: cert, KeyFile: key, ALPN: []string{"h2", "http/1.1"}, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, ln)
	dial := func(cfg *tls.Config) (tls.ConnectionState, error) {
		cfg.InsecureSkipVerify = true // Trust is not what is tested here.
		conn, err := tls.Dial("tcp", ln.Addr().String(), cfg)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	state, err := dial(&tls.Config{NextProtos: []string{"http/1.1", "h2"}})
	if err != nil || state.NegotiatedProtocol != "h2" || state.Version != tls.VersionTLS13 {
		t.Errorf("got %q version %x, %v", state.NegotiatedProtocol, state.Version, err)
	}
	state, err = dial(&tls.Config{MaxVersion: tls.VersionTLS12})
	if err != nil || state.Version != tls.VersionTLS12 {
		t.Errorf("TLS 1.2: version %x, %v", state.Version, err)
	}
	if _, err = dial(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 accepted")
	}
	if _, err = dial(&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}); err == nil {
		t.Error("CBC suite accepted")
	}
}

// wrapped is a connection that was wrapped.
type wrapped struct{ net.Conn }

func TestOpen_Wrap(t *testing.T) {
	cert, key := writePair(t, t.TempDir(), 1)
	for name, cfg := range map[string]Config{
		"plain": {Network: "tcp", Address: "127.0.0.1:0"},
		"TLS":   {Network: "tcp", Address: "127.0.0.1:0", CertificateFile: cert, KeyFile: key, Log: zap.NewNop()},
	} {
		cfg.Wrap = func(conn net.Conn) net.Conn { return wrapped{conn} }
		ln, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		out, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		beneath := in
		if secure, ok := in.(*tls.Conn); ok {
			beneath = secure.NetConn()
		}
		if _, ok := beneath.(wrapped); !ok {
			t.Errorf("%s: %T", name, beneath)
		}
		_ = errors.Join(in.Close(), out.Close(), ln.Close())
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s, closed: %v", name, err)
		}
	}
}

func TestCertificate_Reloads(t *testing.T) {
	dir := t.TempDir()
	cert, key := writePair(t, dir, 1)
	core, logs := observer.New(zap.WarnLevel)
	clock := time.Now()
	c := &certificate{certificateFile: cert, keyFile: key, log: zap.New(core), now: func() time.Time { return clock }}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		pair, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	writePair(t, dir, 2)
	if got := serial(); got != 1 {
		t.Errorf("files are read on every handshake: serial %d", got)
	}
	clock = clock.Add(lookEvery)
	if got := serial(); got != 2 {
		t.Errorf("serial %d after a renewal, want 2", got)
	}
	if err := os.WriteFile(key, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		clock = clock.Add(lookEvery)
		if got := serial(); got != 2 {
			t.Errorf("serial %d while the key is broken, want 2", got)
		}
	}
	if got := logs.Len(); got != 1 {
		t.Errorf("%d lines about one broken key", got)
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(lookEvery)
	if got := serial(); got != 2 {
		t.Errorf("serial %d while the file is missing, want 2", got)
	}
	writePair(t, dir, 3)
	clock = clock.Add(lookEvery)
	if got := serial(); got != 3 {
		t.Errorf("serial %d after the repair, want 3", got)
	}
}

func TestOpen_Unix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	cfg := Config{Network: "unix", Address: path, Log: zap.NewNop()}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = Open(t.Context(), cfg); err == nil {
		t.Error("a socket in use was taken over")
	}
	stale.SetUnlinkOnClose(false)
	if err = stale.Close(); err != nil {
		t.Fatal(err)
	}
	ln, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	if err = ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	content := []byte("precious")
	if err = os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = Open(t.Context(), cfg); err == nil {
		t.Error("a plain file was taken for a socket")
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file is damaged: %q %v", got, err)
	}
}

func TestOpen_Refusals(t *testing.T) {
	cert, key := writePair(t, t.TempDir(), 1)
	other, _ := writePair(t, t.TempDir(), 2)
	for name, cfg := range map[string]Config{
		"network":         {Network: "udp", Address: "127.0.0.1:0"},
		"no network":      {Address: "127.0.0.1:0"},
		"address":         {Network: "tcp", Address: "127.0.0.1"},
		"no key":          {Network: "tcp", Address: "127.0.0.1:0", CertificateFile: cert},
		"no certificate":  {Network: "tcp", Address: "127.0.0.1:0", KeyFile: key},
		"missing files":   {Network: "tcp", Address: "127.0.0.1:0", CertificateFile: "/nowhere/c", KeyFile: "/nowhere/k"},
		"another's key":   {Network: "tcp", Address: "127.0.0.1:0", CertificateFile: other, KeyFile: key},
		"swapped":         {Network: "tcp", Address: "127.0.0.1:0", CertificateFile: key, KeyFile: cert},
		"socket's folder": {Network: "unix", Address: "/nowhere/at/all/s"},
	} {
		cfg.Log = zap.NewNop()
		ln, err := Open(t.Context(), cfg)
		if err == nil {
			t.Errorf("%s: accepted", name)
			_ = ln.Close()
		}
	}
}

func TestOpen_Plain(t *testing.T) {
	cfg := Config{Network: "tcp4", Address: "localhost:0", Log: zap.NewNop()}
	ln, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TLS() || ln.Close() != nil {
		t.Error("not a plain listener that closes")
	}
}
