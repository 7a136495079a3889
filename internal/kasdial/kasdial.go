// Package kasdial is the agent's way to kas: one gRPC channel over any of the four URL schemes, through the proxies on the way,
// that reconnects by itself and says in the log how it stands.
//
// gRPC reconnects at once when a connection is lost; the dialer puts a random 20 to 250 ms before that, which is soon enough for users
// and spreads the agents of a kas that dies. From the first failure on gRPC's own policy is used: 100 ms, growing by 1.4 to 20 s, with
// jitter, so that a kas that was away for a moment is found again in less than half of that moment more. The attempts that are cheap come
// that soon, those whose connection is refused; when somebody has answered instead, the dialer puts about a second before the next one.
// The agents of a kas that stops in order are spread by that kas: it asks them one after the other for a new connection, by GOAWAY,
// and serves them on the old one meanwhile.
package kasdial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // stock kas compresses every answer with it
	"google.golang.org/grpc/keepalive"

	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

const (
	pingAfter   = 55 * time.Second // just above the 50 s of kas, whose pings normally make these unnecessary
	pingTimeout = 20 * time.Second

	baseDelay         = 100 * time.Millisecond
	delayFactor       = 1.4
	delayJitter       = 0.2
	maxDelay          = 20 * time.Second
	minConnectTimeout = 20 * time.Second

	maxMessage    = 4 << 20
	bufferSize    = 32 << 10
	streamWindow  = 1 << 20 // what kas may send unread per stream: 20 MB/s at a round trip of 50 ms
	connWindow    = 4 << 20
	maxHeaderList = 64 << 10
)

// Config is what a Client needs.
type Config struct {
	// Address is the kas address: grpc, grpcs, ws or wss.
	Address string
	// TokenSource returns the agent token; it is asked for every RPC.
	TokenSource func() string
	// CAFile holds certificates, in PEM, that are trusted besides those of the system. Empty: none.
	CAFile string
	// Header is sent with the WebSocket handshake, or as metadata of every RPC where there is none.
	Header http.Header
	// InsecureSkipVerify turns the verification of the server's certificate off.
	InsecureSkipVerify bool
	// ServerName replaces the host of the address in the verification of the certificate.
	ServerName string
	// UserAgent is the product token of the agent.
	UserAgent string
	// OnConnection is told the local address of every new connection whose peer speaks HTTP/2, before anything is sent on it. The
	// connection before it may live on for what runs on it. Calls do not overlap. It must not block. It may be nil.
	OnConnection func(local string)
	// OnState is told every change of the connection, one at a time. It must not block. It may be nil.
	OnState    func(Event)
	Log        *zap.Logger
	Registerer prometheus.Registerer

	lookup func(ctx context.Context, host string) ([]string, error) // default: that of the system
}

// Client is a channel to kas. It connects on its own, whether or not there are RPCs.
type Client struct {
	*grpc.ClientConn
	monitor *monitor
	stop    context.CancelFunc
	workers sync.WaitGroup
}

// New checks cfg and starts to connect. Close must be called.
func New(cfg Config) (*Client, error) {
	target, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.TokenSource == nil {
		return nil, errors.New("kasdial: no token source")
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.lookup == nil {
		cfg.lookup = net.DefaultResolver.LookupHost
	}
	if err := checkHeader(cfg.Header, isWebSocket(target)); err != nil {
		return nil, err
	}
	trust, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	mon := newMonitor(cfg, target)
	metrics := newClientMetrics()
	if cfg.Registerer != nil {
		for _, c := range append(mon.collectors(), metrics) {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics of the connection to kas: %w", err)
			}
		}
	}
	name, dial, err := route(cfg, target, trust, mon)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(name, append(transportOptions(cfg),
		grpc.WithContextDialer(dial),
		grpc.WithResolvers(&names{lookup: cfg.lookup}),
		grpc.WithTransportCredentials(&watchedCredentials{TransportCredentials: security(target, trust), monitor: mon}),
		grpc.WithPerRPCCredentials(newRPCCredentials(cfg, target)),
		grpc.WithChainUnaryInterceptor(metrics.countUnary, mon.timeUnary, mon.judgeUnary),
		grpc.WithChainStreamInterceptor(metrics.countStream, mon.judgeStream),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kas address %s: %w", target.Redacted(), err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Client{ClientConn: conn, monitor: mon, stop: stop}
	c.workers.Go(func() { mon.follow(ctx, conn) })
	c.workers.Go(func() { mon.report(ctx) })
	c.workers.Go(func() { mon.probe(ctx, conn) })
	return c, nil
}

// StreamLimit is how many RPCs the server lets run at once on the newest connection; more wait for one to end. 0: it sets no limit.
func (c *Client) StreamLimit() int {
	return int(min(c.monitor.limit.Load(), math.MaxInt32))
}

// RoundTrip is the shortest time that a unary call has taken on the newest connection, so kas is no farther away than that. 0: there was
// no call yet.
func (c *Client) RoundTrip() time.Duration { return time.Duration(c.monitor.trip.Load()) }

// Close ends all RPCs and the connection, and waits.
func (c *Client) Close() error {
	c.stop()
	err := c.ClientConn.Close()
	c.workers.Wait()
	return err
}

// security is what gRPC itself does: for wss, TLS is inside the dialer.
func security(target *url.URL, trust *tls.Config) credentials.TransportCredentials {
	if target.Scheme == "grpcs" {
		return credentials.NewTLS(trust)
	}
	return insecure.NewCredentials()
}

// transportOptions do not depend on the address. Nothing is compressed: the bulk is small JSON or compressed already.
func transportOptions(cfg Config) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithUserAgent(cfg.UserAgent),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: baseDelay, Multiplier: delayFactor, Jitter: delayJitter, MaxDelay: maxDelay,
			},
			MinConnectTimeout: minConnectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(frame.Codec{}), grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithIdleTimeout(0),
		// Only dns targets have several addresses; elsewhere this is one connection.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithMaxHeaderListSize(maxHeaderList),
	}
}

// tlsConfig is used for kas and for proxies that speak TLS.
func tlsConfig(cfg Config) (*tls.Config, error) {
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         cfg.ServerName,
		InsecureSkipVerify: cfg.InsecureSkipVerify, //nolint:gosec // the user asked for it by a flag
		CipherSuites: []uint16{ // for TLS 1.2; newer versions have no weak ones
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if cfg.CAFile == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read CA certificates of the system: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", cfg.CAFile)
	}
	conf.RootCAs = pool
	return conf, nil
}

// checkHeader refuses headers that belong to the protocol, at start and not at every dial.
func checkHeader(header http.Header, webSocket bool) error {
	for name, values := range header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("%q is no valid name of a header for kas", name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("the value of header %s for kas is not valid", name)
			}
		}
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		ours := canonical == "Connection" || canonical == "Upgrade" || strings.HasPrefix(canonical, "Sec-Websocket-")
		if !webSocket {
			ours = canonical == "Authorization" || canonical == "Te" || canonical == "Content-Type" || canonical == "Host" ||
				canonical == "User-Agent" || canonical == "Connection" || strings.HasPrefix(canonical, "Grpc-")
		}
		if ours {
			return fmt.Errorf("header %s for kas is set by the agent itself", name)
		}
	}
	return nil
}

// rpcCredentials puts the token, and on plain gRPC the extra headers, on every RPC.
type rpcCredentials struct {
	token func() string
	extra map[string]string
	// last is what the last RPC carried: tokens change rarely, RPCs are many.
	last atomic.Pointer[rpcMetadata]
}

// rpcMetadata is not changed any more once it was made.
type rpcMetadata struct {
	token string
	all   map[string]string
}

func newRPCCredentials(cfg Config, target *url.URL) *rpcCredentials {
	c := &rpcCredentials{token: cfg.TokenSource, extra: make(map[string]string)}
	if !isWebSocket(target) {
		for name, values := range cfg.Header {
			c.extra[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	return c
}

// GetRequestMetadata is called by gRPC for every RPC; gRPC copies what it returns.
func (c *rpcCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token := c.token()
	if last := c.last.Load(); last != nil && last.token == token {
		return last.all, nil
	}
	md := maps.Clone(c.extra)
	md["authorization"] = "Bearer " + token
	c.last.Store(&rpcMetadata{token: token, all: md})
	return md, nil
}

// RequireTransportSecurity is false: whether the address is secure is the user's decision, and wss looks insecure to gRPC.
func (*rpcCredentials) RequireTransportSecurity() bool { return false }

// dialFunc is what gRPC calls for a transport connection.
type dialFunc = func(ctx context.Context, addr string) (net.Conn, error)

// route finds the gRPC target and the dialer that go with an address. A dns target is resolved here and dialled as it is; where
// a proxy is used, names are left to it.
func route(cfg Config, target *url.URL, trust *tls.Config, mon *monitor) (string, dialFunc, error) {
	p := &pacer{}
	if isWebSocket(target) {
		header := cfg.Header.Clone()
		if header == nil {
			header = http.Header{}
		}
		if header.Get("User-Agent") == "" && cfg.UserAgent != "" {
			header.Set("User-Agent", cfg.UserAgent)
		}
		ws := &wsconn.Dialer{TLS: trust, Header: header}
		return "passthrough:" + target.String(), mon.watch(p, func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := ws.Dial(ctx, target)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}), nil
	}
	addr := hostPort(target)
	// The scheme is https for both: gRPC is proxied by CONNECT only, which is what HTTPS_PROXY is about.
	via, err := wsconn.ProxyFromEnvironment(&url.URL{Scheme: "https", Host: addr})
	if err != nil {
		return "", nil, err
	}
	name := "dns:" + addr
	if via != nil {
		name = "passthrough:" + addr
	}
	proxyTrust := trust.Clone()
	proxyTrust.ServerName = ""
	return name, mon.watch(p, func(ctx context.Context, addr string) (net.Conn, error) {
		return wsconn.DialThrough(ctx, addr, via, proxyTrust)
	}), nil
}
