// Package reach looks at the way to a server hop by hop: name, connection (through a proxy if the environment names one), TLS, HTTP. It
// dials as the daemons do, and turns what fails into a cause of the catalogue.
package reach

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

// expiringSoon is how long before its end a certificate is worth a warning.
const expiringSoon = 14 * 24 * time.Hour

// Target is a server.
type Target struct {
	// Name is what it is called in texts: kas, GitLab.
	Name string
	URL  *url.URL
	// TLS verifies it; its ServerName replaces the URL's host. nil: the authorities of the system.
	TLS *tls.Config
	// FixAuthority says how to have a private authority trusted; empty: as the catalogue does.
	FixAuthority string
}

// Encrypted says whether the scheme has TLS.
func (t Target) Encrypted() bool {
	switch t.URL.Scheme {
	case "wss", "grpcs", "https", "rediss":
		return true
	}
	return false
}

// Address is host:port.
func (t Target) Address() string {
	port := t.URL.Port()
	if port == "" {
		port = "80"
		if t.Encrypted() {
			port = "443"
		}
	}
	return net.JoinHostPort(t.URL.Hostname(), port)
}

// proxy is what the environment names for this target, as the dialers ask it.
func (t Target) proxy() (*url.URL, error) {
	scheme := "http"
	if t.Encrypted() || t.URL.Scheme == "grpc" { // gRPC is proxied by CONNECT only
		scheme = "https"
	}
	// The library that the dialers use takes a variable that it cannot read for none.
	for _, name := range []string{strings.ToUpper(scheme) + "_PROXY", scheme + "_proxy"} {
		if text := os.Getenv(name); text != "" && !isProxy(text) {
			return nil, fmt.Errorf("the variable %s is no URL of a proxy, and is ignored", name)
		}
	}
	return wsconn.ProxyFromEnvironment(&url.URL{Scheme: scheme, Host: t.Address()})
}

func isProxy(text string) bool {
	if u, err := url.Parse(text); err == nil && u.Hostname() != "" {
		return true
	}
	u, err := url.Parse("http://" + text)
	return err == nil && u.Hostname() != ""
}

// DNS looks the name up, unless a proxy does.
func (t Target) DNS(ctx context.Context) doctor.Outcome {
	host := t.URL.Hostname()
	via, err := t.proxy()
	switch {
	case err != nil:
		return doctor.Bad("proxy-variable", "%v", err)
	case via != nil:
		return doctor.Good("%s is left to the proxy %s", host, via.Host)
	case net.ParseIP(host) != nil:
		return doctor.Good("%s is an address", host)
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return Explain(t.Name, host, err)
	}
	return doctor.Good("%s is %s", host, strings.Join(addresses[:min(len(addresses), 4)], ", "))
}

// Connect opens a connection and closes it.
func (t Target) Connect(ctx context.Context) doctor.Outcome {
	conn, o := t.dial(ctx)
	if conn == nil {
		return o
	}
	_ = conn.Close()
	return o
}

// dial opens a connection; nil: the outcome says why there is none.
func (t Target) dial(ctx context.Context) (net.Conn, doctor.Outcome) {
	via, err := t.proxy()
	if err != nil {
		return nil, doctor.Bad("proxy-variable", "%v", err)
	}
	if t.forwarded(via) {
		conn, err := wsconn.DialThrough(ctx, Target{URL: via}.Address(), nil, nil)
		if err != nil {
			return nil, doctor.Bad("proxy-unreachable", "connect to proxy %s: %v", via.Host, shorten(err))
		}
		return conn, doctor.Good("connected to the proxy %s, which forwards requests", via.Host)
	}
	trust := t.TLS.Clone()
	if trust != nil {
		trust.ServerName = ""
	}
	conn, err := wsconn.DialThrough(ctx, t.Address(), via, trust)
	switch {
	case err == nil && via != nil:
		return conn, doctor.Good("connected to %s through the proxy %s", t.Address(), via.Host)
	case err == nil:
		return conn, doctor.Good("connected to %s", conn.RemoteAddr())
	case via == nil:
		return nil, Explain(t.Name, t.Address(), err)
	case strings.HasPrefix(err.Error(), "connect to proxy"), strings.HasPrefix(err.Error(), "TLS handshake with proxy"):
		return nil, doctor.Bad("proxy-unreachable", "%v", err)
	default:
		return nil, doctor.Bad("proxy-refused", "%v", err)
	}
}

// forwarded says whether a proxy gets requests instead of opening connections: HTTP without TLS is done so.
func (t Target) forwarded(via *url.URL) bool {
	return via != nil && t.URL.Scheme == "http" && via.Scheme == "http"
}

// Handshake makes a TLS handshake and looks at the certificate.
func (t Target) Handshake(ctx context.Context) doctor.Outcome {
	conn, o := t.dial(ctx)
	if conn == nil {
		return o
	}
	defer conn.Close()
	conf := t.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if conf.ServerName == "" {
		conf.ServerName = t.URL.Hostname()
	}
	conf.NextProtos = []string{"http/1.1"}
	if t.URL.Scheme == "grpcs" {
		conf.NextProtos = []string{"h2"}
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		return t.explainTLS(conf.ServerName, err)
	}
	state := secure.ConnectionState()
	leaf := state.PeerCertificates[0]
	left := time.Until(leaf.NotAfter)
	switch {
	case conf.InsecureSkipVerify:
		return doctor.Good("%s, certificate not verified as asked", tls.VersionName(state.Version))
	case left < expiringSoon:
		return doctor.Doubt("certificate-expiring", "the certificate of %s expires %s", conf.ServerName, leaf.NotAfter.UTC().Format(time.RFC3339))
	default:
		return doctor.Good("%s, certificate for %s valid until %s", tls.VersionName(state.Version), conf.ServerName, leaf.NotAfter.UTC().Format(time.DateOnly))
	}
}

// Client is an HTTP client that dials as this package does and follows no redirects. Its idle connections are not kept.
func (t Target) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: func(*http.Request) (*url.URL, error) {
				via, err := t.proxy()
				if err != nil || !t.forwarded(via) {
					return nil, err // dial has its own way through it
				}
				return via, nil
			},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, o := t.dial(ctx)
				if conn == nil {
					return nil, errors.New(o.What)
				}
				return conn, nil
			},
			TLSClientConfig: t.TLS.Clone(), DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Explain finds the cause of an error of the network. where is the address it is about.
func Explain(name, where string, err error) doctor.Outcome {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return doctor.Bad("unknown-host", "%s: no such host: %s", name, dns.Name)
	case errors.As(err, &dns):
		return doctor.Bad("dns-trouble", "%s: looking up %s: %s", name, dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return doctor.Bad("port-closed", "%s: %s refuses connections", name, where)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.HasSuffix(err.Error(), "EOF"):
		return doctor.Bad("hung-up", "%s: %s closed the connection", name, where)
	default:
		return doctor.Bad("unreachable", "%s: %s: %v", name, where, shorten(err))
	}
}

// shorten leaves the addresses out that the text around has already.
func shorten(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
