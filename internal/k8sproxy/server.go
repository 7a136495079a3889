package k8sproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = time.Minute
	// lastWords is how long requests that were cut may take to tell their clients.
	lastWords = time.Second
	// maxHeaderBytes fits 10 000 header fields of usual size, and stays below the 4 MiB that older agents take as one message.
	maxHeaderBytes = 1 << 20
)

// errStopping is why requests end that are still there when the shutdown grace period is over.
var errStopping = fault.New(fault.Unavailable, fault.Kas, "kas is shutting down")

// Serve serves ln until ctx ends, and then in order: new connections are accepted for the listen grace period, and every answer
// asks its client to open another one, which a load balancer takes elsewhere; requests may finish for the shutdown grace period;
// what is left is cut. It returns when nothing is served any more. ln may be a TLS listener; what it offers is ALPN. An HTTP/2 connection
// is asked for with GOAWAY to take the next request elsewhere, and closes a second after the last of its streams has ended.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener) error {
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(errStopping)
	defer p.close()
	errorLog, err := zap.NewStdLogAt(p.cfg.Log.Named("http"), zap.DebugLevel)
	if err != nil {
		return fmt.Errorf("kubernetes proxy log: %w", err)
	}
	server := &http.Server{
		Handler:           p,
		Protocols:         protocols(),
		HTTP2:             http2Config(),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       p.connContext,
		// OPTIONS * is a request like any other: refused or answered by the handler.
		DisableGeneralOptionsHandler: true,
	}
	watching, stopWatching := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stopWatching()
	background.Go(func() { p.watch(watching) })

	served := make(chan error, 1)
	background.Go(func() { served <- server.Serve(ln) })
	select {
	case err := <-served:
		cut(errStopping)
		_ = server.Close()
		<-p.inflight.wait()
		return fmt.Errorf("serve the kubernetes proxy: %w", err)
	case <-ctx.Done():
	}
	p.leaving.Store(true)
	return p.stop(server, served, cut)
}

// Closed is closed when Serve takes no new request any more, at the latest when it returns. Requests may still run.
func (p *Proxy) Closed() <-chan struct{} { return p.closed }

func (p *Proxy) close() { p.closeOnce.Do(func() { close(p.closed) }) }

func (p *Proxy) stop(server *http.Server, served <-chan error, cut context.CancelCauseFunc) error {
	if p.cfg.ListenGracePeriod > 0 {
		grace := time.NewTimer(p.cfg.ListenGracePeriod)
		defer grace.Stop()
		select {
		case <-grace.C:
		case err := <-served:
			p.cfg.Log.Warn("Kubernetes proxy listener ended before its grace period", zap.Error(err))
		}
	}
	grace, cancel := context.WithTimeout(context.Background(), max(p.cfg.ShutdownGracePeriod, 0))
	defer cancel()
	over, end := context.WithCancel(grace)
	end()
	_ = server.Shutdown(over) // no waiting yet: it closes the listener and the connections that are idle
	p.close()
	err := server.Shutdown(grace)
	if err == nil {
		select {
		case <-p.inflight.wait():
		case <-grace.Done():
		}
	}
	cut(errStopping)
	last, cancelLast := context.WithTimeout(context.Background(), lastWords)
	defer cancelLast()
	_ = server.Shutdown(last)
	if closeErr := server.Close(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		err = closeErr
	}
	<-p.inflight.wait()
	return err
}

// watch empties the cache whenever the backend's answers may have changed.
func (p *Proxy) watch(ctx context.Context) {
	if p.cfg.Changed == nil {
		return
	}
	for {
		// The channel is taken first: a change between the two only empties the cache once more.
		changed := p.cfg.Changed()
		p.Invalidate()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
