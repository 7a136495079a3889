package server

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"
)

// answering is a connection to something that sends a text to every command.
func answering(t *testing.T, text string) *redisConn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		lines := bufio.NewReader(theirs)
		if _, err := lines.ReadString('\n'); err != nil {
			return
		}
		for lines.Buffered() > 0 {
			if _, err := lines.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = theirs.Write([]byte(text))
	}()
	if err := ours.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ours.Close()
		<-done
	})
	return newRedisConn(ours)
}

func TestRESP(t *testing.T) {
	for text, want := range map[string]string{
		"+PONG\r\n":                          "PONG",
		":12\r\n":                            "12",
		"$5\r\na\r\nbc\r\n":                  "a\r\nbc",
		"$-1\r\n":                            "",
		"*-1\r\n":                            "",
		"*2\r\n$1\r\na\r\n:7\r\n":            "a\n7",
		"*2\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n": "a\nb",
	} {
		if got, err := answering(t, text).do("PING"); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestRESP_Malformed(t *testing.T) {
	for _, text := range []string{
		"", "\r\n", "HTTP/1.1 400 Bad Request\r\n", "$x\r\n", "$99999999999\r\n", "$5\r\nab", "*x\r\n", "*9999999\r\n", "*2\r\n+a\r\n",
		strings.Repeat("*1\r\n", 100), "-ERR no\r\n", "+PONG",
	} {
		if got, err := answering(t, text).do("PING"); err == nil {
			t.Errorf("%.20q: accepted as %q", text, got)
		}
	}
}

func TestLogin(t *testing.T) {
	if err := answering(t, "+OK\r\n").login("", ""); err == nil {
		t.Error("another answer than PONG is accepted")
	}
	if err := answering(t, "-LOADING Redis is loading\r\n").login("", ""); err != nil {
		t.Errorf("a Redis that loads is there: %v", err)
	}
	if err := answering(t, "-NOAUTH Authentication required.\r\n").login("", ""); err == nil {
		t.Error("a Redis that wants a password is taken for one that does not")
	}
}

func TestWithPort(t *testing.T) {
	for _, c := range [][3]string{
		{"redis", "tcp", "redis:6379"}, {"redis:1", "tcp", "redis:1"}, {"::1", "tcp", "[::1]:6379"}, {"[::1]", "tcp", "[::1]:6379"}, {"/a.sock", "unix", "/a.sock"},
	} {
		if got := withPort(c[0], c[1]); got != c[2] {
			t.Errorf("%s %s: %s, want %s", c[1], c[0], got, c[2])
		}
	}
}
