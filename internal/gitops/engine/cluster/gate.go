package cluster

import (
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"sync"
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
	known     *Known // nil: everything is asked

	mu sync.Mutex // guards all below
	// applied has the newest apply of each object, by path, and stored the objects whose apply was sent and may have been stored.
	applied map[string][sha256.Size]byte
	stored  map[string]bool
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	if g.ctx.Err() != nil {
		return nil, context.Cause(g.ctx)
	}
	request := condense(req)
	if object := g.known.answer(req.Method, req.URL.Path, request); object != nil {
		resp := asResponse(req, object)
		g.answered(req, request, resp.StatusCode)
		return resp, nil
	}
	g.sends(req)
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
	g.answered(req, request, resp.StatusCode)
	resp.Body = &gatedBody{ReadCloser: resp.Body, end: end}
	return resp, nil
}

// sends notes that an object may be stored from now on.
func (g *gate) sends(req *http.Request) {
	if req.Method != http.MethodPatch {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stored == nil {
		g.stored = map[string]bool{}
	}
	g.stored[req.URL.Path] = true
}

// answered notes what became of a request that may change something.
func (g *gate) answered(req *http.Request, request [sha256.Size]byte, status int) {
	if req.Method == http.MethodGet {
		return
	}
	if req.Method == http.MethodPatch {
		g.lastPatch.Store(int32(status))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if req.Method == http.MethodPatch && refusal(status) {
		delete(g.stored, req.URL.Path)
	}
	if status >= http.StatusMultipleChoices || request == ([sha256.Size]byte{}) {
		delete(g.applied, req.URL.Path)
		return
	}
	if g.applied == nil {
		g.applied = map[string][sha256.Size]byte{}
	}
	g.applied[req.URL.Path] = request
}

// refusal says that an answer is the API server's own and means that nothing was stored.
func refusal(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		return true
	}
	return false
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
