package floor

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
)

func frontPipe(ctx context.Context, ln net.Listener, back string) error {
	return eachPair(ctx, ln, func(ctx context.Context) (net.Conn, error) { return dial(ctx, back) }, join)
}

func backPipe(ctx context.Context, ln net.Listener, api string, secure *tls.Config) error {
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: dialLimit}, Config: secure}
	return eachPair(ctx, ln, func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", api) }, join)
}

// join passes bytes on both ways until one way ends.
func join(ctx context.Context, one, other net.Conn) {
	both := func() {
		_ = one.Close()
		_ = other.Close()
	}
	defer context.AfterFunc(ctx, both)()
	var way sync.WaitGroup
	way.Go(func() {
		defer both()
		_, _ = io.Copy(one, other) // its end is the other's
	})
	defer way.Wait()
	defer both()
	_, _ = io.Copy(other, one)
}

// relay passes messages on: it reads each whole, as somebody has to who finds out where it goes.
func relay(ctx context.Context, ln net.Listener, back string) error {
	return each(ctx, ln, func(ctx context.Context, conn net.Conn) {
		other, err := dial(ctx, back)
		if err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { _ = other.Close() })()
		there, here := newLink(other), newLink(conn)
		var way sync.WaitGroup
		defer way.Wait()
		defer func() { _ = other.Close() }()
		way.Go(func() {
			defer func() { _ = conn.Close() }()
			pass(there, here)
		})
		pass(here, there)
	})
}

func pass(from, to *link) {
	for {
		m, err := from.receive()
		if err != nil || to.send(m) != nil {
			return
		}
	}
}
