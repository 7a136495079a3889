package k8sproxy

import (
	"context"
	"net"
	"net/http"
)

// HTTP/2 is for plain requests: one connection carries many, watches too. An upgrade takes a connection over as a whole, so clients open
// one with HTTP/1.1 for it, as they do towards an API server; HTTP/2 has nothing to upgrade, and extended CONNECT (RFC 8441) is not
// offered. net/http bounds what a client can do to a connection: streams that are reset keep counting until their handlers have ended
// (CVE-2023-44487), and a header that goes on beyond the limit ends the connection (CVE-2023-45288).
//
// There are no pings of ours: the keep-alive of TCP finds hosts that are gone, on both versions alike, and a client that is stopped for a
// while (Ctrl-Z) finds its watch as it was. What a slow client does not read stays with its stream: its window is the client's choice.
const (
	// maxStreams is how many requests one connection may carry at a time, what an API server allows too and what clients expect before
	// they are told. With more to do they open another connection.
	maxStreams = 100
	// streamWindow is how much of a body may arrive before it is passed on: an object of 1.5 MB, the most that a cluster stores, takes six
	// round trips, and sixteen bodies that nobody takes do not hold up the next one on their connection.
	streamWindow = 256 << 10
	// connectionWindow bounds what is held for one connection. It is the most that net/http takes.
	connectionWindow = 4<<20 - 1
	// maxReadFrame is the largest frame that a client may send: more than what is passed on at once would only be held here.
	maxReadFrame = 32 << 10
)

// ALPN are the protocols that a TLS listener for Serve has to offer, best first.
func ALPN() []string { return []string{"h2", "http/1.1"} }

// protocols are those of Serve. Without TLS there is only HTTP/1.1: the load balancers that listeners without it are for speak nothing else.
func protocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	return p
}

func http2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          maxStreams,
		MaxReceiveBufferPerStream:     streamWindow,
		MaxReceiveBufferPerConnection: connectionWindow,
		MaxReadFrameSize:              maxReadFrame,
	}
}

// multiplexed says whether other requests share the connection of r.
func multiplexed(r *http.Request) bool { return r.ProtoMajor >= 2 }

// lateKey marks the context of a connection that was opened when kas was leaving already.
type lateKey struct{}

// connContext is that of a new connection.
func (p *Proxy) connContext(ctx context.Context, _ net.Conn) context.Context {
	if p.leaving.Load() {
		return context.WithValue(ctx, lateKey{}, true)
	}
	return ctx
}

// sendAway asks the client of r to take its next request elsewhere, while kas is leaving. GOAWAY on HTTP/2 turns away what is under way on
// the connection behind r, which is sent again elsewhere, but Go's library waits before each further attempt. So a client whose balancer
// leads it here once more is served: its connection is told when no other can be opened here any more.
func (p *Proxy) sendAway(h http.Header, r *http.Request) {
	if !p.leaving.Load() || r.Header.Get("Upgrade") != "" || multiplexed(r) && r.Context().Value(lateKey{}) != nil {
		return
	}
	h.Set("Connection", "close")
}
