package httpgrpc

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// holding collects what is written to a connection, to be sent in other pieces.
type holding struct {
	net.Conn
	on   bool
	held bytes.Buffer
}

func (h *holding) Write(p []byte) (int, error) {
	if h.on {
		return h.held.Write(p)
	}
	return h.Conn.Write(p)
}

func (h *holding) release(t *testing.T, n int) {
	t.Helper()
	if _, err := h.Conn.Write(h.held.Next(n)); err != nil {
		t.Fatal(err)
	}
}

// promptPair is a connection with TLS: the server's end, its switch, the client's end, and what is beneath that.
func promptPair(t *testing.T) (*tls.Conn, *prompt, *tls.Conn, *holding) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	server, beneath := tls.Server(Prompt(accepted), certified.TLS), &holding{Conn: raw}
	client := tls.Client(beneath, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own certificate
	t.Cleanup(func() {
		_ = raw.Close()
		_ = accepted.Close()
	})
	for _, conn := range []net.Conn{raw, accepted} {
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	beneath.on = true
	return server, promptOf(server), client, beneath
}

func TestPrompt(t *testing.T) {
	server, now, client, beneath := promptPair(t)
	buf := make([]byte, 64)
	read := func(impatient bool, want string, wantErr error) {
		t.Helper()
		now.impatient = impatient
		n, err := server.Read(buf)
		if got := string(buf[:n]); got != want || !errors.Is(err, wantErr) {
			t.Fatalf("read %q, %v; want %q, %v", got, err, want, wantErr)
		}
	}
	write := func(text string) {
		t.Helper()
		if _, err := io.WriteString(client, text); err != nil {
			t.Fatal(err)
		}
	}
	read(true, "", errNotYet)
	write("one")
	write("two")
	whole := beneath.held.Len()
	write("three")
	// Two records and a half in one segment: what is whole is there at once, and the half is not lost.
	beneath.release(t, whole+7)
	read(false, "one", nil)
	read(true, "two", nil)
	read(true, "", errNotYet)
	read(true, "", errNotYet)
	beneath.release(t, beneath.held.Len())
	read(false, "three", nil)
	read(true, "", errNotYet)
	_ = client.CloseWrite() // which lets nothing be written afterwards
	_ = beneath.SetWriteDeadline(time.Time{})
	beneath.release(t, beneath.held.Len())
	read(false, "", io.EOF)
	read(true, "", io.EOF)
}

// A read that has filled its buffer says nothing of what follows, so that the next one asks the system, and hears of the end, too.
func TestPrompt_AsksAgain(t *testing.T) {
	server, now, _, beneath := promptPair(t) // but TLS is out of the way here
	const size = 64
	sent := strings.Repeat("0123456789abcdef", 2*size/16)
	if _, err := io.WriteString(beneath.Conn, sent); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, size)
	if n, err := now.Read(buf); n != size || err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	now.impatient = true
	if n, err := now.Read(buf); string(buf[:n]) != sent[size:] || err != nil {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if n, err := now.Read(buf); n > 0 || !errors.Is(err, errNotYet) || !now.drained {
		t.Fatalf("%d bytes, %v, drained %t", n, err, now.drained)
	}
	_ = beneath.Close()
	for end := time.Now().Add(20 * time.Second); ; {
		now.drained = false
		n, err := now.Read(buf)
		if n == 0 && errors.Is(err, io.EOF) {
			break
		}
		if !errors.Is(err, errNotYet) || time.Now().After(end) {
			t.Fatalf("%d bytes, %v instead of the end", n, err)
		}
	}
	_ = server.Close()
	now.drained = false
	if _, err := now.Read(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of a closed connection: %v", err)
	}
}

func TestPrompt_OtherConnections(t *testing.T) {
	one, two := net.Pipe()
	defer func() { _ = errors.Join(one.Close(), two.Close()) }()
	if got := Prompt(one); got != one || promptOf(got) != nil {
		t.Errorf("%T", got)
	}
}
