//go:build chaos

package chaos

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/fleet"
)

// session is an upgraded connection to the double, which echoes.
type session struct {
	conn   *tls.Conn
	reader *bufio.Reader
}

func openSession(t *testing.T, f *fleet.Fleet) *session {
	t.Helper()
	bearer, err := f.Bearer(fleet.Job, doubled)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", f.Proxy.Addr(), &tls.Config{RootCAs: f.Authority.Pool, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	s := &session{conn: conn, reader: bufio.NewReader(conn)}
	_, err = fmt.Fprintf(conn, "GET /k8s-proxy/session HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", bearer)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(s.reader, &http.Request{Method: http.MethodGet})
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", response, err)
	}
	s.echo(t)
	return s
}

// echo carries some bytes both ways.
func (s *session) echo(t *testing.T) {
	t.Helper()
	const text = "still there?"
	if _, err := io.WriteString(s.conn, text); err != nil {
		t.Fatalf("session: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(s.reader, got); err != nil || string(got) != text {
		t.Fatalf("session: read %q, %v", got, err)
	}
}

// end waits for the end of the session.
func (s *session) end(t *testing.T) {
	t.Helper()
	if n, err := io.Copy(io.Discard, s.reader); n != 0 {
		t.Errorf("%d bytes of nobody, %v", n, err)
	}
}
