package httpgrpc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"google.golang.org/grpc/mem"

	"gitlab.com/agentk/agentk/internal/frame"
)

// errBodyClosed is what a read of a closed request body says.
var errBodyClosed = errors.New("request body is closed")

// attachBody gives req its body. content_length decides: 0 is strictly none, which matters because a stray chunk terminator
// would corrupt an upgraded connection; more is the length; -1 is a stream. Absent means an old requester, which sends its whole
// request before it reads: the next frame tells whether there is a body.
func (x *served) attachBody(req *http.Request, head *requestHead) error {
	var first mem.BufferSlice
	switch {
	case head.length == nil:
		member, payload, err := x.frames.next()
		if err != nil {
			return err
		}
		if member == frame.HTTPTrailer {
			return x.frames.end()
		}
		first = payload
		req.ContentLength = -1
	case *head.length == 0:
		x.frames.noBody = true
		return x.frames.end()
	default:
		req.ContentLength = *head.length
	}
	x.body = &requestBody{
		ctx:    x.ctx,
		frames: make(chan mem.BufferSlice),
		closed: make(chan struct{}),
		done:   make(chan struct{}),
		first:  first,
	}
	req.Body = x.body
	return nil
}

// requestBody is a request body fed by frames. One goroutine, the pump, receives; whoever performs the request reads. After
// Close the pump goes on and discards, so that a requester that sends everything first is not left hanging.
type requestBody struct {
	ctx    context.Context
	frames chan mem.BufferSlice
	first  mem.BufferSlice
	// closed: nobody reads any more.
	closed    chan struct{}
	closeOnce sync.Once
	// done: the pump has ended. err says why and is set before; io.EOF is the end of the body.
	done chan struct{}
	err  error

	// mu guards rest, since a Close may come during a Read.
	mu   sync.Mutex
	rest mem.Reader
}

// pump receives until the body ends, which is at the half-close or, for an upgrade, at the trailer. A requester that is gone or
// breaks the order ends the whole exchange.
func (b *requestBody) pump(ctx context.Context, f *requestFrames, cancel context.CancelCauseFunc) {
	defer close(b.done)
	if b.first != nil {
		b.put(ctx, b.first)
	}
	for {
		member, payload, err := f.next()
		switch {
		case err != nil:
			b.err = err
			if !errors.Is(err, io.EOF) {
				cancel(err)
			}
			return
		case member == frame.HTTPTrailer:
			if f.upgrade {
				b.err = io.EOF
				return
			}
		default:
			b.put(ctx, payload)
		}
	}
}

// put hands a frame over, or discards it when it is not wanted any more.
func (b *requestBody) put(ctx context.Context, payload mem.BufferSlice) {
	if payload.Len() == 0 {
		payload.Free()
		return
	}
	select {
	case b.frames <- payload:
	case <-b.closed:
		payload.Free()
	case <-ctx.Done():
		payload.Free()
	}
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if n := b.read(p); n > 0 {
		return n, nil
	}
	select {
	case payload := <-b.frames:
		return b.take(payload, p)
	case <-b.closed:
		return 0, errBodyClosed
	case <-b.done:
		return 0, b.err
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	}
}

// read takes from what the last frame left.
func (b *requestBody) read(p []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, _ := b.rest.Read(p) // its only error says that it is empty
	return n
}

// take starts a new frame.
func (b *requestBody) take(payload mem.BufferSlice, p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer payload.Free() // rest holds references of its own
	select {
	case <-b.closed:
		return 0, errBodyClosed
	default:
		b.rest.Reset(payload)
		return b.rest.Read(p)
	}
}

// Close implements io.Closer. It may be called during a Read, and more than once.
func (b *requestBody) Close() error {
	b.closeOnce.Do(func() { close(b.closed) })
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rest.Close()
}
