package k8sapi

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

const (
	dialTimeout         = 30 * time.Second
	tcpKeepAlive        = 30 * time.Second
	tlsHandshakeTimeout = 10 * time.Second
	idleConnTimeout     = 90 * time.Second
	// maxIdleConns is for API servers without HTTP/2.
	maxIdleConns = 100
	// maxResponseHeader bounds the header of an answer; it has to fit into one message to kas.
	maxResponseHeader = 1 << 20
	bufferSize        = 32 << 10
	// pingAfter and pingTimeout find dead HTTP/2 connections.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// lane is one set of credentials with its connections: pooled ones for plain requests, and a new one for each upgrade, which
// becomes raw bytes and can be nobody else's. Neither asks for compression on its own: what the client accepts decides.
type lane struct {
	plain, upgrade http.RoundTripper
	pools          [2]*http.Transport
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

func newLane(cfg *rest.Config) (*lane, error) {
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
	l := &lane{pools: [2]*http.Transport{pooled(tlsConfig, dial), dedicated(tlsConfig, dial)}}
	l.pools[0].Proxy = utilnet.NewProxierWithNoProxyCIDR(http.ProxyFromEnvironment)
	if cfg.Proxy != nil {
		l.pools[0].Proxy = cfg.Proxy
	}
	if l.plain, err = transport.HTTPWrappersForConfig(tc, l.pools[0]); err != nil {
		return nil, err
	}
	l.upgrade, err = transport.HTTPWrappersForConfig(tc, l.pools[1])
	return l, err
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// pooled is for plain requests: HTTP/2 where the server speaks it, so that one connection carries them all.
func pooled(tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	t := newTransport(tlsConfig.Clone(), dial)
	t.ForceAttemptHTTP2 = true
	t.MaxIdleConnsPerHost = maxIdleConns
	t.IdleConnTimeout = idleConnTimeout
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
	return t
}

// dedicated is for upgrades: HTTP/1.1, straight to the API server, one connection for each request. The only limit on the time
// to the answer is the request's context, since the API server may have to reach a slow node first.
func dedicated(tlsConfig *tls.Config, dial dialFunc) *http.Transport {
	tlsConfig = tlsConfig.Clone()
	tlsConfig.NextProtos = []string{"http/1.1"}
	t := newTransport(tlsConfig, dial)
	t.Protocols = &http.Protocols{}
	t.Protocols.SetHTTP1(true)
	t.MaxIdleConnsPerHost = -1
	return t
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

// RoundTrip implements http.RoundTripper. Redirects are answers like any other.
func (l *lane) RoundTrip(req *http.Request) (*http.Response, error) {
	if len(httpgrpc.UpgradeOf(req.Header)) > 0 {
		return l.upgrade.RoundTrip(req)
	}
	return l.plain.RoundTrip(req)
}

// close closes idle connections.
func (l *lane) close() {
	for _, t := range l.pools {
		t.CloseIdleConnections()
	}
}
