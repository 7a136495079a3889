package wsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/gorilla/websocket"
)

// clientReadBuffer takes a whole write of the peer; an agent has one connection.
const clientReadBuffer = 32 << 10

// Dialer opens the agent's end of the tunnel.
type Dialer struct {
	// TLS verifies the server of a wss URL, and a proxy that speaks TLS. nil: the roots of the system.
	TLS *tls.Config
	// Header is sent on the upgrade request; Host replaces the host of the URL there. Its values never appear in errors.
	Header http.Header
	// Proxy names the proxy for an http or https URL, nil if none. Default ProxyFromEnvironment.
	Proxy func(*url.URL) (*url.URL, error)
}

// Dial opens a ws or wss URL. Redirects are not followed. Errors say what the answer usually means.
func (d *Dialer) Dial(ctx context.Context, target *url.URL) (*Conn, error) {
	plain := *target
	switch target.Scheme {
	case "ws":
		plain.Scheme = "http"
	case "wss":
		plain.Scheme = "https"
	default:
		return nil, fmt.Errorf("scheme %q is neither ws nor wss", target.Scheme)
	}
	findProxy := d.Proxy
	if findProxy == nil {
		findProxy = ProxyFromEnvironment
	}
	via, err := findProxy(&plain)
	if err != nil {
		return nil, err
	}
	conn, err := DialThrough(ctx, withPort(target), via, d.proxyTLS())
	if err != nil {
		return nil, err
	}
	if target.Scheme == "wss" {
		conn, err = handshake(ctx, conn, d.TLS, target.Hostname())
		if err != nil {
			return nil, ExplainTLS(target.Host, err)
		}
	}
	c, err := d.open(ctx, conn, target)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// proxyTLS trusts what the server's configuration trusts, but the name to verify is the proxy's own.
func (d *Dialer) proxyTLS() *tls.Config {
	if d.TLS == nil {
		return nil
	}
	conf := d.TLS.Clone()
	conf.ServerName = ""
	return conf
}

// open performs the WebSocket handshake on an open connection.
func (d *Dialer) open(ctx context.Context, conn net.Conn, target *url.URL) (*Conn, error) {
	l := newLink(conn, nil, nil)
	l.budget = maxHeader
	done, err := bound(ctx, l, answerTimeout)
	if err != nil {
		return nil, err
	}
	defer done()
	lib := websocket.Dialer{
		NetDialContext:  func(context.Context, string, string) (net.Conn, error) { return l, nil },
		Subprotocols:    []string{Subprotocol},
		ReadBufferSize:  clientReadBuffer,
		WriteBufferSize: writeBuffer,
		WriteBufferPool: &writeBuffers,
	}
	// The connection is made, and secure if it has to be: to the library it is a plain one.
	u := *target
	u.Scheme = "ws"
	//nolint:bodyclose // the library has read and closed the body
	ws, resp, err := lib.DialContext(context.WithoutCancel(ctx), u.String(), d.Header) // bound watches ctx
	if err != nil {
		if resp != nil {
			return nil, explainAnswer(target, resp, d.Header)
		}
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case l.budget == 0:
			err = errBudget
		}
		return nil, explainHandshake(target, err)
	}
	if got := ws.Subprotocol(); got != "" && got != Subprotocol {
		return nil, fmt.Errorf("%s answered with the subprotocol %.40q: it is not an agent endpoint", target.Host, got)
	}
	if len(resp.Header.Values("Sec-Websocket-Extensions")) > 0 {
		return nil, fmt.Errorf("%s turned on a WebSocket extension that was not offered", target.Host)
	}
	l.budget = -1
	return newConn(ws, l), nil
}

// ExplainTLS says of a failed TLS handshake with whom it was, and adds its usual cause.
func ExplainTLS(host string, err error) error {
	var notTLS tls.RecordHeaderError
	if errors.As(err, &notTLS) {
		return fmt.Errorf("TLS handshake with %s: it does not speak TLS: is the scheme ws:// or grpc:// meant? (%w)", host, err)
	}
	return fmt.Errorf("TLS handshake with %s: %w", host, err)
}

// explainHandshake adds the usual cause to a handshake without a readable answer.
func explainHandshake(target *url.URL, err error) error {
	switch {
	case strings.Contains(err.Error(), "malformed"):
		// The error quotes what came, which is no text.
		return fmt.Errorf("WebSocket handshake with %s: the answer is not HTTP/1.1: scheme and port do not belong together "+
			"(a TLS port wants wss:// or grpcs://, a port for plain gRPC wants grpc:// or grpcs://)", target.Host)
	case target.Scheme == "ws" && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		// What a TLS server says to a request in the clear is not even one line.
		return fmt.Errorf("WebSocket handshake with %s: it closed the connection without an answer: is it a TLS port, and wss:// meant? (%w)",
			target.Host, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("WebSocket handshake with %s: no answer within %v", target.Host, answerTimeout)
	default:
		return fmt.Errorf("WebSocket handshake with %s: %w", target.Host, err)
	}
}
