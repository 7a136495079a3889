package gitlab

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

const (
	dialTimeout   = 30 * time.Second
	tlsTimeout    = 10 * time.Second
	headerTimeout = 20 * time.Second
	// bodyTimeout is how long an answer may take after its header.
	bodyTimeout   = 20 * time.Second
	answerTimeout = dialTimeout + tlsTimeout + headerTimeout + bodyTimeout

	connsPerHost = 50
	idleConns    = 100
	idleTimeout  = 90 * time.Second
	// maxHeader bounds the header of an answer.
	maxHeader = 256 << 10
)

// transport is an HTTP transport that trusts what its file of authorities says now.
type transport struct {
	file *secretfile.File // nil: the system's authorities only
	path string
	log  *zap.Logger

	// mu guards the fields below. text is what current was made with; complaint is what was logged about the file last.
	mu        sync.Mutex
	text      string
	complaint string
	current   *http.Transport
}

func newTransport(caFile string, log *zap.Logger) (*transport, error) {
	t := &transport{path: caFile, log: log}
	if caFile == "" {
		t.current = plainTransport(nil)
		return t, nil
	}
	t.file = secretfile.New(caFile)
	if err := t.load(); err != nil {
		return nil, fmt.Errorf("gitlab: CA certificates: %w", err)
	}
	return t, nil
}

// load takes over the file if it has changed; t.mu is held, or t is new.
func (t *transport) load() error {
	text, err := t.file.Read()
	if err != nil {
		return err
	}
	if t.current != nil && text == t.text {
		return nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM([]byte(text)) {
		return fmt.Errorf("%s: no PEM certificate found", t.path)
	}
	if t.current != nil {
		t.current.CloseIdleConnections()
	}
	t.text, t.current = text, plainTransport(roots)
	return nil
}

// get returns the transport for the next request. What was good last stays while the file is not.
func (t *transport) get() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return t.current
	}
	complaint := ""
	if err := t.load(); err != nil {
		complaint = err.Error()
	}
	if complaint != "" && complaint != t.complaint {
		t.log.Warn("Cannot read the new CA certificates for GitLab, the old ones stay", zap.String("cause", complaint))
	}
	t.complaint = complaint
	return t.current
}

func (t *transport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current.CloseIdleConnections()
}

// plainTransport leaves HTTP/2 out: 50 connections give enough room, and one that has silently died then costs one request and
// not all of them. roots nil means the system's.
func plainTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                  environmentProxy,
		DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    connsPerHost,
		MaxConnsPerHost:        connsPerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// environmentProxy hides the value of a bad proxy variable: it may hold a password.
func environmentProxy(req *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(req)
	if err != nil {
		return nil, errors.New("HTTP_PROXY or HTTPS_PROXY is not a URL")
	}
	return proxy, nil
}
