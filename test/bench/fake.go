package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// fakeCommand, as the only argument, turns this program into the fake API server, so that it runs as a process of its own.
const fakeCommand = "fake-apiserver"

// fakeProcess is the fake API server as the others see it.
type fakeProcess struct {
	dir, url  string
	authority *line.Authority
	child     *child
}

// startFake starts this program as the fake API server.
func startFake() (*fakeProcess, error) {
	dir, err := os.MkdirTemp("", "bench-fake-")
	if err != nil {
		return nil, err
	}
	f := &fakeProcess{dir: dir}
	if err := f.start(); err != nil {
		f.stop()
		return nil, fmt.Errorf("fake API server: %w", err)
	}
	return f, nil
}

func (f *fakeProcess) start() error {
	var err error
	if f.authority, err = line.NewAuthority(f.dir); err != nil {
		return err
	}
	certificate, key, err := f.authority.Issue("fake-apiserver", "127.0.0.1")
	if err != nil {
		return err
	}
	if f.child, err = startChild([]string{fakeCommand}, "FAKE_CERT="+certificate, "FAKE_KEY="+key); err != nil {
		return err
	}
	f.url = "https://" + f.child.address
	return nil
}

func (f *fakeProcess) stop() {
	f.child.stop()
	_ = os.RemoveAll(f.dir)
}

// fakeAPIServer is an API server that costs next to nothing: what is measured against it is the line's own cost. It serves TLS
// with the certificate and key named in the environment, and writes its address to standard output.
func fakeAPIServer() error {
	cert, err := tls.LoadX509KeyPair(os.Getenv("FAKE_CERT"), os.Getenv("FAKE_KEY"))
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	server := &http.Server{
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		Handler:           fakeHandler(),
	}
	return server.ServeTLS(ln, "", "")
}

// fakeHandler answers small requests with 512 bytes, those for configmaps with 50 MB, and upgrades with sinks and an echo.
func fakeHandler() http.Handler {
	small, large := bytes.Repeat([]byte("x"), 512), bytes.Repeat([]byte("x"), bulkObjects*bulkSize)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") == "" && strings.HasSuffix(r.URL.Path, "/configmaps"):
			_, _ = w.Write(large) // the client may have gone
		case r.Header.Get("Upgrade") == "":
			_, _ = w.Write(small)
		case wantsWebSocket(r) && strings.HasSuffix(r.URL.Path, "/portforward"):
			forwardSink(w, r)
		case wantsWebSocket(r):
			execSink(w, r)
		default:
			echoBack(w)
		}
	})
}

// echoBack accepts an upgrade and returns every byte.
func echoBack(w http.ResponseWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"); err != nil {
		return
	}
	_, _ = io.Copy(conn, rw) // ends when the client has gone
}
