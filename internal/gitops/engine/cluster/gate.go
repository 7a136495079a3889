package cluster

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// requestTimeout bounds each request that is not a watch.
const requestTimeout = 2 * time.Minute

// gate ends requests with a context that is not their own.
type gate struct {
	ctx  context.Context
	next http.RoundTripper
	// lastPatch is the status code of the newest answer to a PATCH.
	lastPatch atomic.Int32
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	if g.ctx.Err() != nil {
		return nil, context.Cause(g.ctx)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(g.ctx, func() { cancel(context.Cause(g.ctx)) })
	end := func() { stop(); cancel(nil) }
	if req.URL.Query().Get("watch") == "" {
		timed, cancelTimer := context.WithTimeout(ctx, requestTimeout)
		ctx = timed
		outer := end
		end = func() { cancelTimer(); outer() }
	}
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		end()
		if g.ctx.Err() != nil {
			return nil, context.Cause(g.ctx)
		}
		return nil, err
	}
	if req.Method == http.MethodPatch {
		g.lastPatch.Store(int32(resp.StatusCode))
	}
	resp.Body = &gatedBody{ReadCloser: resp.Body, end: end}
	return resp, nil
}

// gatedBody frees what belongs to a request when its answer has been read.
type gatedBody struct {
	io.ReadCloser
	end func()
}

func (b *gatedBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}
