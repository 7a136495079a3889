package k8sapi

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/k8sapi/plain"
)

const (
	dialTimeout         = 30 * time.Second
	tcpKeepAlive        = 30 * time.Second
	tlsHandshakeTimeout = 10 * time.Second
	// maxQuick bounds the HTTP/1.1 connections for requests that are soon over. They stay open for the next ones, and those that a burst leaves
	// behind, each with its buffers, not for longer than quickIdle; a shared one, which carries everything, may wait for longer.
	maxQuick   = 64
	quickIdle  = 20 * time.Second
	sharedIdle = 90 * time.Second
	// maxResponseHeader bounds the header of an answer; it has to fit into one message to kas.
	maxResponseHeader = 1 << 20
	bufferSize        = 32 << 10
	// pingAfter and pingTimeout find dead HTTP/2 connections.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// lane is one set of credentials with its connections. None asks for compression on its own: what the client accepts decides.
type lane struct {
	// plain carries requests without a body that are soon over, one at a time per HTTP/1.1 connection, which costs the API server and the
	// agent less than HTTP/2; quick does so for those that plainPool does not take. free bounds both; what lasts (a watch, a followed
	// log) or exceeds the bound goes to shared.
	plain, quick http.RoundTripper
	plainPool    *plain.Pool
	free         chan struct{}
	// shared carries any number of requests over one HTTP/2 connection, where the server speaks it.
	shared http.RoundTripper
	// upgrade opens a connection for each request: it becomes raw bytes and can be nobody else's.
	upgrade http.RoundTripper
	pools   [3]*http.Transport
	// opening bounds the quick connections that are being opened, first the first shared ones.
	opening, first          chan struct{}
	quickConns, sharedConns openConns
	// bearer is nil when the credentials have no token.
	bearer *bearer
}

// ownCredentials is the agent's configuration without its impersonation, which this package does itself.
func ownCredentials(cfg *rest.Config) *rest.Config {
	c := rest.CopyConfig(cfg)
	c.Impersonate = rest.ImpersonationConfig{}
	return c
}

// noCredentials leaves only the address and how to trust it.
func noCredentials(cfg *rest.Config) *rest.Config {
	return &rest.Config{
		Host:      cfg.Host,
		UserAgent: cfg.UserAgent,
		Proxy:     cfg.Proxy,
		Dial:      cfg.Dial,
		TLSClientConfig: rest.TLSClientConfig{
			Insecure:   cfg.Insecure,
			ServerName: cfg.ServerName,
			CAFile:     cfg.CAFile,
			CAData:     cfg.CAData,
		},
	}
}

// newLane returns the lane to the server at base.
func newLane(base *url.URL, cfg *rest.Config) (*lane, error) {
	tc, err := cfg.TransportConfig()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := transport.TLSConfigFor(tc)
	if err != nil {
		return nil, err
	}
	if tlsConfig == nil {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	dial := (&net.Dialer{Timeout: dialTimeout, KeepAlive: tcpKeepAlive}).DialContext
	if tc.DialHolder != nil {
		dial = tc.DialHolder.Dial
	}
	proxy := utilnet.NewProxierWithNoProxyCIDR(http.ProxyFromEnvironment)
	if cfg.Proxy != nil {
		proxy = cfg.Proxy
	}
	l := &lane{free: make(chan struct{}, maxQuick), opening: make(chan struct{}, maxOpening), first: make(chan struct{}, 1)}
	quick, shared := pooled(tlsConfig, l.quickConns.count(dial)), pooled(tlsConfig, l.sharedConns.count(dial))
	http1(quick)
	quick.IdleConnTimeout = quickIdle
	quick.Proxy, shared.Proxy = proxy, proxy
	l.pools = [3]*http.Transport{quick, shared, dedicated(tlsConfig, dial)}
	if l.bearer, err = takeBearer(tc); err != nil {
		return nil, err
	}
	l.plainPool = l.newPlain(base, tc, tlsConfig, dial, proxy)
	ways := []struct {
		to   *http.RoundTripper
		from http.RoundTripper
	}{{&l.quick, quick}, {&l.shared, shared}, {&l.upgrade, l.pools[2]}, {&l.plain, l.plainPool}}
	for _, way := range ways {
		if *way.to, err = transport.HTTPWrappersForConfig(tc, way.from); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// newPlain returns the pool for requests without a body, or nil where it cannot take any: behind a proxy, or with a dialer that is not
// ours. Which requests it takes is up to it.
func (l *lane) newPlain(base *url.URL, tc *transport.Config, tlsConfig *tls.Config, dial dialFunc, proxy proxyFunc) *plain.Pool {
	if over, err := proxy(&http.Request{URL: base}); over != nil || err != nil || tc.Proxy != nil || tc.DialHolder != nil {
		return nil
	}
	return plain.New(plain.Config{
		Server: base, TLS: tlsConfig, Dial: dial, Handshake: tlsHandshakeTimeout, Idle: quickIdle,
		MaxHeader: maxResponseHeader, Buffer: bufferSize, Places: l.free, Opening: l.opening,
	})
}

type (
	dialFunc  func(ctx context.Context, network, address string) (net.Conn, error)
	proxyFunc func(*http.Request) (*url.URL, error)
)

// pooled keeps connections for later requests: HTTP/2 where the server speaks it, so that one carries them all.
func pooled(tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	t := newTransport(tlsConfig.Clone(), dial)
	t.ForceAttemptHTTP2 = true
	t.MaxIdleConnsPerHost = maxQuick
	t.IdleConnTimeout = sharedIdle
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
	return t
}

// dedicated is for upgrades: HTTP/1.1, straight to the API server, one connection for each request. The only limit on the time
// to the answer is the request's context, since the API server may have to reach a slow node first.
func dedicated(tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	t := newTransport(tlsConfig.Clone(), dial)
	http1(t)
	t.MaxIdleConnsPerHost = -1
	return t
}

// http1 makes a transport speak HTTP/1.1 only.
func http1(t *http.Transport) {
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	t.ForceAttemptHTTP2, t.HTTP2 = false, nil
	t.Protocols = &http.Protocols{}
	t.Protocols.SetHTTP1(true)
}

func newTransport(tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    tlsHandshakeTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
		ReadBufferSize:         bufferSize,
		WriteBufferSize:        bufferSize,
	}
}

// RoundTrip is that of http.RoundTripper, except that it may add to the header of req. Redirects are answers like any other.
func (l *lane) RoundTrip(req *http.Request) (*http.Response, error) {
	l.bearer.authorize(req.Header)
	if len(httpgrpc.UpgradeOf(req.Header)) > 0 {
		return l.upgrade.RoundTrip(req)
	}
	if lasts(req) {
		return l.share(req)
	}
	if l.plainPool.Takes(req) {
		resp, err := l.plain.RoundTrip(req)
		if errors.Is(err, plain.ErrCrowded) {
			return l.share(req)
		}
		return resp, err
	}
	select {
	case l.free <- struct{}{}:
	default:
		return l.share(req)
	}
	l.quickConns.busy.Add(1)
	release := sync.OnceFunc(func() {
		l.quickConns.busy.Add(-1)
		<-l.free
	})
	resp, err, sent := l.quickly(req)
	if !sent {
		release()
		return l.share(req)
	}
	if err != nil {
		release()
		return nil, err
	}
	resp.Body = &counted{ReadCloser: resp.Body, release: release}
	return resp, nil
}

// lasting is the way of requests of this package's own that go over the shared connection.
type lasting struct{ *lane }

// RoundTrip may add to the header of req.
func (l lasting) RoundTrip(req *http.Request) (*http.Response, error) {
	l.bearer.authorize(req.Header)
	return l.share(req)
}

// lasts says whether the answer to a request goes on until somebody ends it.
func lasts(req *http.Request) bool {
	return httpgrpc.Asks(req.URL.RawQuery, "watch") || httpgrpc.Asks(req.URL.RawQuery, "follow")
}

// counted gives its place back when the answer has been read.
type counted struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (c *counted) Close() error {
	defer c.release()
	return c.ReadCloser.Close()
}

// close closes idle connections.
func (l *lane) close() {
	l.plainPool.Close()
	for _, t := range l.pools {
		t.CloseIdleConnections()
	}
}
