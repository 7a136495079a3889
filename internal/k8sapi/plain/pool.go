package plain

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// ErrCrowded is what a request gets that finds no place, or that would have to open a connection while others are being opened.
// Nothing of it was sent.
var ErrCrowded = errors.New("too many plain requests at once")

// Config configures a Pool.
type Config struct {
	// Server is where requests go.
	Server *url.URL
	// TLS is not changed.
	TLS *tls.Config
	// Dial opens a TCP connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Handshake bounds a TLS handshake; Idle is how long a connection is kept for the next request.
	Handshake, Idle time.Duration
	// MaxHeader bounds the header of an answer, with those of informational answers before it, in bytes. Buffer is how much is read at once.
	MaxHeader int64
	Buffer    int
	// Places has room for the requests that may be under way, Opening for the connections that may be opened at once. Both may be
	// shared with others, who put something in for each of theirs.
	Places, Opening chan struct{}
}

// Pool sends requests. It implements http.RoundTripper for those that it takes.
type Pool struct {
	cfg           Config
	host, address string
	tls           *tls.Config
	// readers and heads have what an exchange needs for a while only: *bufio.Reader, *[]byte.
	readers, heads sync.Pool

	// mu guards all below. idle has the kept connections, the one used last at the end.
	mu     sync.Mutex
	idle   []*conn
	expiry *time.Timer
	closed bool
}

// New returns a Pool, or nil, which takes no request, for a server that is not reached by TLS or whose name has to be rewritten first.
func New(cfg Config) *Pool {
	host := cfg.Server.Host
	if cfg.Server.Scheme != "https" || cfg.Server.Hostname() == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' }) {
		return nil
	}
	port := cfg.Server.Port()
	if port == "" {
		port = "443"
	}
	p := &Pool{cfg: cfg, host: host, address: net.JoinHostPort(cfg.Server.Hostname(), port), tls: cfg.TLS.Clone()}
	if p.tls.ServerName == "" {
		p.tls.ServerName = cfg.Server.Hostname()
	}
	p.tls.NextProtos = []string{"http/1.1"}
	p.heads.New = func() any {
		head := make([]byte, 0, headRoom)
		return &head
	}
	p.readers.New = func() any { return bufio.NewReaderSize(nil, cfg.Buffer) }
	return p
}

// Takes says whether a request may be sent by RoundTrip: to the Pool's server, without a body, and without anything that changes what
// the connection is for.
func (p *Pool) Takes(req *http.Request) bool {
	return p != nil &&
		(req.Body == nil || req.Body == http.NoBody) && req.ContentLength == 0 && len(req.TransferEncoding)+len(req.Trailer) == 0 &&
		!req.Close && len(req.Header["Connection"])+len(req.Header["Upgrade"]) == 0 && req.Method != http.MethodConnect &&
		req.URL.Scheme == "https" && req.URL.Host == p.host && req.URL.Opaque == "" && (req.Host == "" || req.Host == p.host)
}

// RoundTrip implements http.RoundTripper. The error may be ErrCrowded.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case p.cfg.Places <- struct{}{}:
	default:
		return nil, ErrCrowded
	}
	resp, err := p.perform(req)
	if err != nil {
		<-p.cfg.Places
	}
	return resp, err
}

// perform sends req on kept connections until one serves, then on a new one. With an answer, the place is given back when that ends.
func (p *Pool) perform(req *http.Request) (*http.Response, error) {
	head := p.heads.Get().(*[]byte)
	defer p.heads.Put(head)
	var err error
	if *head, err = appendHead((*head)[:0], req, p.host); err != nil {
		return nil, err
	}
	for {
		if cause := context.Cause(req.Context()); cause != nil {
			return nil, cause
		}
		c := p.take()
		kept := c != nil
		if !kept {
			if c, err = p.open(req.Context()); err != nil {
				return nil, caused(req.Context(), err)
			}
		}
		resp, err := c.exchange(req, *head)
		if err == nil {
			return resp, nil
		}
		var failed *unanswered
		if !kept || !errors.As(err, &failed) || !failed.unsent && !repeatable(req) {
			return nil, err
		}
	}
}

// caused is why ctx has ended, if it has, and err otherwise.
func caused(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// repeatable says whether a request may reach the server twice.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return req.Header["Idempotency-Key"] != nil || req.Header["X-Idempotency-Key"] != nil
}

// open opens a connection.
func (p *Pool) open(ctx context.Context) (*conn, error) {
	select {
	case p.cfg.Opening <- struct{}{}:
	default:
		return nil, ErrCrowded
	}
	defer func() { <-p.cfg.Opening }()
	raw, err := p.cfg.Dial(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	w, err := newWire(raw)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	c := &conn{pool: p, wire: w, tls: tls.Client(w, p.tls)}
	limited, cancel := context.WithTimeout(ctx, p.cfg.Handshake)
	defer cancel()
	if err := c.tls.HandshakeContext(limited); err != nil {
		_ = raw.Close()
		if limited.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("TLS handshake took longer than %s", p.cfg.Handshake)
		}
		return nil, err
	}
	state := c.tls.ConnectionState()
	c.state = &state
	return c, nil
}

// take returns a kept connection that can be used, or nil.
func (p *Pool) take() *conn {
	for {
		c := p.last()
		if c == nil {
			return nil
		}
		// By the wall clock: a machine that slept did not notice that its connections died.
		if time.Since(c.since.Round(0)) < p.cfg.Idle && c.quiet() {
			return c
		}
		c.leave()
	}
}

func (p *Pool) last() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	c := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	return c
}

// put keeps a connection for the next request.
func (p *Pool) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		c.leave()
		return
	}
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
	if p.expiry == nil {
		p.expiry = time.AfterFunc(p.cfg.Idle, p.expire)
	}
}

// expire closes the connections that have waited for too long, and looks again when the next one may have.
func (p *Pool) expire() {
	p.mu.Lock()
	old := 0
	for old < len(p.idle) && time.Since(p.idle[old].since) >= p.cfg.Idle {
		old++
	}
	expired := append([]*conn(nil), p.idle[:old]...)
	p.idle = append([]*conn(nil), p.idle[old:]...)
	p.expiry = nil
	if len(p.idle) > 0 {
		p.expiry = time.AfterFunc(p.cfg.Idle-time.Since(p.idle[0].since), p.expire)
	}
	p.mu.Unlock()
	for _, c := range expired {
		c.leave()
	}
}

// Close closes the connections that are not in use, and the others after their answers. The Pool may be nil.
func (p *Pool) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	if p.expiry != nil {
		p.expiry.Stop()
		p.expiry = nil
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.leave()
	}
}
