package faults

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// maxTapped bounds what the double remembers of one connection.
const maxTapped = 1 << 20

// double is a cluster that does what a test tells it to, over real TLS and HTTP/1.1.
type double struct {
	url, dir, token string
	certificate     []byte // PEM
	server          *http.Server
	served          chan error

	// mu guards all below.
	mu       sync.Mutex
	handlers map[string]http.HandlerFunc // by the first two path segments
	strange  []string                    // Authorization headers that are not the agent's own
	count    int
}

// lazyDouble starts the double when it is first used.
type lazyDouble struct {
	once   sync.Once
	double *double
	err    error
}

var theDouble lazyDouble

func (l *lazyDouble) get() (*double, error) {
	l.once.Do(func() { l.double, l.err = startDouble() })
	return l.double, l.err
}

func useDouble(t *testing.T) *double {
	t.Helper()
	d, err := theDouble.get()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// close ends the double. It fails when requests came with a credential that is not the agent's own.
func (l *lazyDouble) close() error {
	d := l.double
	if d == nil {
		return nil
	}
	err := d.server.Close()
	<-d.served
	err = errors.Join(err, os.RemoveAll(d.dir))
	if len(d.strange) > 0 {
		err = errors.Join(err, fmt.Errorf("requests reached the cluster with %q", d.strange))
	}
	return err
}

func startDouble() (*double, error) {
	// The certificate that httptest has for loopback saves us a certificate authority.
	borrowed := httptest.NewTLSServer(http.NotFoundHandler())
	certificates, leaf := borrowed.TLS.Certificates, borrowed.Certificate().Raw
	borrowed.Close()
	dir, err := os.MkdirTemp("", "agentk-double-")
	if err != nil {
		return nil, err
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &double{
		url: "https://" + inner.Addr().String(), dir: dir, token: "double-" + rand.Text(), served: make(chan error, 1),
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}),
		handlers:    map[string]http.HandlerFunc{},
	}
	d.server = &http.Server{Handler: d, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, tapKey{}, c)
	}}
	listener := &tapListener{tls.NewListener(inner, &tls.Config{Certificates: certificates, NextProtos: []string{"http/1.1"}})}
	go func() { d.served <- d.server.Serve(listener) }()
	return d, nil
}

// kubeconfigFor writes a kubeconfig with the agent's credential for a server that has the double's certificate.
func (d *double) kubeconfigFor(server string) (string, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["double"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: d.certificate}
	config.AuthInfos["double"] = &clientcmdapi.AuthInfo{Token: d.token}
	config.Contexts["double"] = &clientcmdapi.Context{Cluster: "double", AuthInfo: "double"}
	config.CurrentContext = "double"
	path := filepath.Join(d.dir, strings.NewReplacer(":", "-", "/", "").Replace(server))
	return path, clientcmd.WriteToFile(*config, path)
}

// args make an agent use the double; they come after the line's own, and the last one counts.
func (d *double) args() []string {
	path, err := d.kubeconfigFor(d.url)
	if err != nil {
		panic(err) // a temporary folder that cannot be written to
	}
	return []string{"--kubeconfig", path}
}

// handle makes the double answer below a path of the test's own, which it returns, without a slash at the end.
func (d *double) handle(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	path := fmt.Sprintf("/test/%d", d.count)
	d.handlers[path] = handler
	t.Cleanup(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.handlers, path)
	})
	return path
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	if got := r.Header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+d.token {
		d.strange = append(d.strange, strings.Join(got, ", "))
	}
	var handler http.HandlerFunc
	if parts := strings.SplitN(r.URL.Path, "/", 4); len(parts) >= 3 {
		handler = d.handlers["/"+parts[1]+"/"+parts[2]]
	}
	d.mu.Unlock()
	switch {
	case handler != nil:
		handler(w, r)
	case r.URL.Path == "/version":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"major":"1","minor":"37","gitVersion":"v1.37.0"}`))
	default:
		http.NotFound(w, r)
	}
}

// tapKey is where the context of a request has its connection.
type tapKey struct{}

// received is everything that came in on the connection of a request so far, after TLS.
func received(r *http.Request) string { return r.Context().Value(tapKey{}).(*tap).text() }

// tapListener remembers what its connections receive.
type tapListener struct{ net.Listener }

func (l *tapListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tap{Conn: c}, nil
}

// tap is a connection that remembers what it received.
type tap struct {
	net.Conn
	mu   sync.Mutex // guards seen
	seen bytes.Buffer
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen.Len() < maxTapped {
		c.seen.Write(p[:n])
	}
	return n, err
}

func (c *tap) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.String()
}

func (c *tap) reset() error { return reset(c.Conn) }

// reset ends a TLS connection the hard way: with RST, and without the end of TLS.
func reset(conn net.Conn) error {
	tcp := conn.(*tls.Conn).NetConn().(*net.TCPConn)
	return errors.Join(tcp.SetLinger(0), tcp.Close())
}

// take hijacks the connection of a request. The caller closes it.
func take(w http.ResponseWriter) (*tap, error) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return nil, err
	}
	return conn.(*tap), nil
}
