package k8sapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxOpening is how many quick connections are opened at once. A burst that meets an agent at rest would otherwise begin with a
	// TLS handshake for each of its requests; those that find no open connection share one instead.
	maxOpening = 1
	// firstPatience is how long requests wait for the first answer on a shared connection before each opens one of its own. Until
	// then the transport does not know how many requests the server takes on it, and would open more than needed.
	firstPatience = time.Second
)

// openConns knows how many connections of a transport are open.
type openConns struct {
	open atomic.Int64
	// busy is how many requests use one or want to, where that is counted.
	busy atomic.Int64
	// usable: one of them has brought an answer, so that there is no need to open another.
	usable atomic.Bool
}

// count wraps the dialer of the transport.
func (o *openConns) count(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		o.open.Add(1)
		return &openConn{Conn: conn, closed: sync.OnceFunc(func() {
			if o.open.Add(-1) == 0 {
				o.usable.Store(false)
			}
		})}, nil
	}
}

type openConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *openConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// quickly sends a request on a quick connection of its own. It says false if that would have to be opened while enough others are.
func (l *lane) quickly(req *http.Request) (*http.Response, error, bool) {
	if l.quickConns.busy.Load() <= l.quickConns.open.Load() {
		resp, err := l.quick.RoundTrip(req)
		return resp, err, true
	}
	select {
	case l.opening <- struct{}{}:
	default:
		return nil, nil, false
	}
	opened := sync.OnceFunc(func() { <-l.opening })
	defer opened()
	resp, err := l.quick.RoundTrip(traced(req, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { opened() }}))
	return resp, err, true
}

// share sends a request over the shared connection. Only one request at a time opens the first one.
func (l *lane) share(req *http.Request) (*http.Response, error) {
	if l.sharedConns.usable.Load() {
		return l.shared.RoundTrip(req)
	}
	timer := time.NewTimer(firstPatience)
	defer timer.Stop()
	select {
	case l.first <- struct{}{}:
		opened := sync.OnceFunc(func() { <-l.first })
		defer opened()
		if !l.sharedConns.usable.Load() {
			req = traced(req, &httptrace.ClientTrace{GotFirstResponseByte: func() {
				l.sharedConns.usable.Store(true)
				opened()
			}})
		} else {
			opened()
		}
	case <-timer.C:
	case <-req.Context().Done(): // which the transport explains
	}
	return l.shared.RoundTrip(req)
}

func traced(req *http.Request, trace *httptrace.ClientTrace) *http.Request {
	return req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
}
