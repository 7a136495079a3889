package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/grpcserver"
	"gitlab.com/agentk/agentk/internal/jwtauth"
	"gitlab.com/agentk/agentk/internal/version"
)

const (
	// pingAfter and pingTimeout find a dead peer behind a silent network.
	clientPingAfter = 55 * time.Second
	// keepUnused is how long a connection without users stays.
	keepUnused = time.Hour
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 5 * time.Second
)

// connectBackoff is how a connection that cannot be made is tried again: a replica that restarts is back within seconds.
var connectBackoff = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}

// PoolConfig configures a Pool.
type PoolConfig struct {
	// Keys hold the secret that the replicas share.
	Keys jwtauth.Keys
	// CAFile is a PEM file with the certificates that sign those of the private API; empty: those of the system.
	CAFile string
	// ServerName is the name in the certificates of all replicas; empty: the host of the URL.
	ServerName string
}

// Pool holds the connections to other replicas: one for each URL, closed an hour after its last use.
type Pool struct {
	cfg    PoolConfig
	tokens *tokens
	// draining are the ends of exchanges that still have to be read.
	draining sync.WaitGroup

	mu sync.Mutex
	// mu guards the fields below.
	conns  map[string]*conn
	closed bool
}

// conn is a connection and how many use it.
type conn struct {
	client *grpc.ClientConn
	users  int
	unused time.Time
	// idle are series that wait for a request.
	idle []*series
	// serial: the replica serves series.
	serial atomic.Bool
}

// NewPool returns a Pool without connections.
func NewPool(cfg PoolConfig) (*Pool, error) {
	if cfg.Keys == nil {
		return nil, errors.New("peer: Keys are required")
	}
	return &Pool{cfg: cfg, tokens: &tokens{keys: cfg.Keys}, conns: map[string]*conn{}}, nil
}

// Close cuts all connections and waits until nobody reads from them any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		for _, s := range c.idle {
			s.cut()
		}
		c.idle = nil
		_ = c.client.Close()
	}
	p.mu.Unlock()
	p.draining.Wait()
}

// acquire returns the connection to a URL; release gives it back.
func (p *Pool) acquire(url string) (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fault.New(fault.Unavailable, fault.Kas, "kas is shutting down")
	}
	c := p.conns[url]
	if c == nil {
		client, err := p.dial(url)
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, fault.OtherKas, err, "other kas at %s", url)
		}
		c = &conn{client: client}
		p.conns[url] = c
	}
	c.users++
	return c, nil
}

func (p *Pool) release(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	c.users--
	c.unused = now
	for url, other := range p.conns {
		if other.users == 0 && now.Sub(other.unused) > keepUnused {
			delete(p.conns, url)
			_ = other.client.Close()
		}
	}
}

// dial makes a connection that connects when it is first used.
func (p *Pool) dial(address string) (*grpc.ClientConn, error) {
	target, secure, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if secure {
		if transport, err = p.tls(); err != nil {
			return nil, err
		}
	}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(p.tokens),
		grpc.WithUserAgent(version.Kas()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{}), grpc.MaxCallRecvMsgSize(grpcserver.MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPingAfter, Timeout: grpcserver.PingTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: connectBackoff, MinConnectTimeout: connectTimeout}),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithMaxHeaderListSize(grpcserver.MaxHeaderList),
		// Replicas are neighbours: a proxy to the outside cannot reach them.
		grpc.WithNoProxy(),
	)
}

// tls reads the certificates anew for every connection, so that renewed ones count.
func (p *Pool) tls() (credentials.TransportCredentials, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.cfg.ServerName}
	if p.cfg.CAFile != "" {
		data, err := os.ReadFile(p.cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("private_api.listen.ca_certificate_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("private_api.listen.ca_certificate_file %s: no certificate in it", p.cfg.CAFile)
		}
	}
	return credentials.NewTLS(cfg), nil
}

// parseURL turns a replica's URL into a target of gRPC. Those whose scheme ends with an s are secure: unixs is TLS on a socket.
func parseURL(address string) (target string, secure bool, err error) {
	for _, scheme := range []string{"unix", "unixs"} {
		path, ok := strings.CutPrefix(address, scheme+"://")
		switch {
		case !ok:
		case !strings.HasPrefix(path, "/"):
			return "", false, fmt.Errorf("a %s:// URL needs an absolute path", scheme)
		default:
			return "unix:" + path, scheme == "unixs", nil
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", false, err
	}
	port := u.Port()
	switch {
	case u.Scheme == "grpc" && port == "":
		port = "80"
	case u.Scheme == "grpcs" && port == "":
		port = "443"
	case u.Scheme != "grpc" && u.Scheme != "grpcs":
		return "", false, errors.New("the scheme must be grpc, grpcs, unix or unixs")
	}
	if u.Hostname() == "" {
		return "", false, errors.New("the URL names no host")
	}
	return "dns:" + net.JoinHostPort(u.Hostname(), port), u.Scheme == "grpcs", nil
}

// Ask asks the replica at url for a stream of an agent. When ctx ends, so does the Stream, until somebody else adopts it. The
// caller calls Finish in the end. Errors are faults at the other kas.
func (p *Pool) Ask(ctx context.Context, url string, q Request) (*Stream, error) {
	c, err := p.acquire(url)
	if err != nil {
		return nil, err
	}
	s := &Stream{pool: p, conn: c, at: replica(url), last: memberNoTunnel, eager: q.Eager}
	// The stream may outlive ctx by its end, which has to be read.
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.disown = context.AfterFunc(ctx, cancel)
	md := metadata.MD{metaAgentID: {strconv.FormatInt(q.AgentID, 10)}}
	for name, values := range q.Meta {
		md[name] = values
	}
	if len(q.Require) > 0 {
		md[metaRequire] = q.Require
	}
	if q.Eager {
		md[metaEager] = []string{"1"}
	}
	s.stream, err = c.client.NewStream(metadata.NewOutgoingContext(streamCtx, md), bidirectional, "/"+q.Service+"/"+q.Method)
	if err != nil {
		s.Finish(false)
		return nil, s.at.failure(err)
	}
	return s, nil
}

// Begin begins a request at the replica at url without asking whether it has a stream of the agent, in a series or, where the replica
// is not known to serve any, in a stream of its own.
func (p *Pool) Begin(ctx context.Context, url string, q Request) (Begun, error) {
	c, err := p.acquire(url)
	if err != nil {
		return nil, err
	}
	if c.serial.Load() {
		return &Turn{pool: p, conn: c, at: replica(url), ctx: ctx, held: openingInfo(q)}, nil
	}
	defer p.release(c)
	q.Eager = true
	return p.Ask(ctx, url, q)
}

// Begun is a request that was sent without asking: a Stream or a Turn.
type Begun interface {
	// Wait waits for the word of the other replica. ready: it has begun. ErrRefused: it has not. Other errors leave it open.
	Wait() (ready bool, err error)
	// Lost is the failure of a request that is left open, made of the error of Wait.
	Lost(err error) error
	// URL is where the other replica is.
	URL() string

	Send(msg mem.BufferSlice) error
	CloseSend() error
	Recv() (mem.BufferSlice, error)
	Finish(done bool)
}

var bidirectional = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
