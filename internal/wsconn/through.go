package wsconn

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// Bounds of a dial, each for a hop that may hang on its own.
const (
	connectTimeout = 30 * time.Second
	tcpKeepAlive   = 30 * time.Second
	tlsTimeout     = 10 * time.Second
	answerTimeout  = 20 * time.Second
)

// ProxyFromEnvironment is the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for a URL, nil if none. Unlike
// http.ProxyFromEnvironment it reads the environment each time.
func ProxyFromEnvironment(u *url.URL) (*url.URL, error) {
	p, err := httpproxy.FromEnvironment().ProxyFunc()(u)
	if err != nil {
		// The parser's error would quote the variable, which may hold a password.
		return nil, fmt.Errorf("the proxy that the environment names for %s is not a valid URL", u.Host)
	}
	return p, nil
}

// DialThrough opens a TCP connection to addr, by way of via unless it is nil. trust verifies a proxy that itself speaks TLS.
// Host names are left to the proxy to resolve.
func DialThrough(ctx context.Context, addr string, via *url.URL, trust *tls.Config) (net.Conn, error) {
	tcp := &net.Dialer{Timeout: connectTimeout, KeepAlive: tcpKeepAlive}
	if via == nil {
		return tcp.DialContext(ctx, "tcp", addr)
	}
	proxyAddr := withPort(via)
	switch via.Scheme {
	case "http", "https":
	case "socks5", "socks5h":
		return dialSOCKS(ctx, tcp, via, addr)
	default:
		return nil, fmt.Errorf("proxy %s: scheme %q is not supported", proxyAddr, via.Scheme)
	}
	conn, err := tcp.DialContext(ctx, "tcp", proxyAddr)
	if err != nil {
		return nil, fmt.Errorf("connect to proxy %s: %w", proxyAddr, err)
	}
	if via.Scheme == "https" {
		conn, err = handshake(ctx, conn, trust, via.Hostname())
		if err != nil {
			return nil, fmt.Errorf("TLS handshake with proxy %s: %w", proxyAddr, err)
		}
	}
	through, err := connect(ctx, conn, via, addr)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return through, nil
}

// dialSOCKS goes through a SOCKS5 proxy.
func dialSOCKS(ctx context.Context, tcp *net.Dialer, via *url.URL, addr string) (net.Conn, error) {
	dialer, err := proxy.FromURL(via, tcp)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", via.Host, err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", via.Host, err)
	}
	return conn, nil
}

// connect asks an HTTP proxy for a connection to addr. What the far end already said is kept.
func connect(ctx context.Context, conn net.Conn, via *url.URL, addr string) (net.Conn, error) {
	proxyAddr := withPort(via)
	done, err := bound(ctx, conn, answerTimeout)
	if err != nil {
		return nil, err
	}
	defer done()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if user := via.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization",
			"Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask proxy %s for %s: %w", proxyAddr, addr, err)
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxHeader))
	resp, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, fmt.Errorf("answer of proxy %s to CONNECT %s: %w", proxyAddr, addr, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusProxyAuthRequired:
		return nil, fmt.Errorf("proxy %s wants a user name and password (407): %s", proxyAddr, proxyLogin)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("proxy %s refused the connection to %s with status %d", proxyAddr, addr, resp.StatusCode)
	}
	said, err := reader.Peek(reader.Buffered())
	if err != nil {
		return nil, err
	}
	if len(said) == 0 {
		return conn, nil
	}
	return newLink(conn, said, nil), nil
}

// proxyLogin says where a proxy's credentials go.
const proxyLogin = "put them into the proxy variable of the environment, as in HTTPS_PROXY=http://user:password@proxy:3128"

// handshake makes conn a verified TLS connection, or closes it.
func handshake(ctx context.Context, conn net.Conn, conf *tls.Config, host string) (net.Conn, error) {
	if conf == nil {
		conf = &tls.Config{}
	}
	conf = conf.Clone()
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	conf.NextProtos = []string{"http/1.1"}
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// bound limits what is done on conn by ctx and by a time; the returned function lifts the limit.
func bound(ctx context.Context, conn net.Conn, limit time.Duration) (func(), error) {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = conn.SetDeadline(time.Time{})
		}
	}, nil
}

// withPort is the address of a URL with the port made explicit.
func withPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "https", "wss":
			port = "443"
		default:
			port = "80"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}
