package route

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/mem"

	"gitlab.com/agentk/agentk/internal/peer"
)

// keepRequest is how much of a request, in bytes, is kept until it is certain that it has begun, and one message more. It is well
// above what makes the other replica say so.
const keepRequest = 64 << 10

// eagerCall is a call that was sent to the one replica that holds the agent, and lately had a stream of it free, without asking
// whether it still has: in most cases it has, and a round trip is saved. The replica begins at once or says that it cannot, in
// which case nothing has been asked of the agent, and the request is sent again along the way that is found then.
type eagerCall struct {
	r      *Router
	ctx    context.Context // of the request: for the search that may follow
	q      Request
	watch  *watch
	stream peer.Begun
	// settled is closed when it is known who serves the call.
	settled chan struct{}

	mu sync.Mutex
	// mu guards the fields below; call and err do not change once the call is settled. kept is what was sent before, closed that
	// it was half-closed. call is what serves it; nil: nothing does, because of err. unopened: the agent has heard nothing of it.
	kept     []mem.BufferSlice
	size     int
	closed   bool
	call     Call
	err      error
	unopened bool
}

// eager sends a call without asking, if that promises to work; nil: it does not.
func (r *Router) eager(ctx context.Context, q Request) candidate {
	if r.cfg.Registry.Presence(q.AgentID).Connected {
		return nil
	}
	w := r.watches.get(q.AgentID)
	url := w.warm()
	if url == "" {
		r.watches.put(w)
		return nil
	}
	stream, err := r.cfg.Others.Peers.Begin(ctx, url, q.toPeer())
	if err != nil {
		w.cool()
		r.watches.put(w)
		return nil
	}
	return &eagerCall{r: r, ctx: ctx, q: q, watch: w, stream: stream, settled: make(chan struct{})}
}

// open implements candidate: it is open.
func (c *eagerCall) open(context.Context, Request) (Call, error) { return c, nil }

// Send implements Call. Before the call is settled a failure is Recv's to find.
func (c *eagerCall) Send(msg mem.BufferSlice) error {
	c.mu.Lock()
	if c.isSettled() {
		call := c.call
		c.mu.Unlock()
		return sendOn(call, msg)
	}
	if c.size < keepRequest {
		defer c.mu.Unlock()
		msg.Ref()
		c.kept = append(c.kept, msg)
		c.size += msg.Len()
		_ = c.stream.Send(msg)
		return nil
	}
	c.mu.Unlock()
	select {
	case <-c.settled:
		return sendOn(c.call, msg)
	case <-c.ctx.Done():
		msg.Free()
		return c.ctx.Err()
	}
}

// sendOn sends on the call that was found; without one Recv knows why.
func sendOn(call Call, msg mem.BufferSlice) error {
	if call == nil {
		msg.Free()
		return io.EOF
	}
	return call.Send(msg)
}

// CloseSend implements Call.
func (c *eagerCall) CloseSend() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	switch {
	case !c.isSettled():
		_ = c.stream.CloseSend()
		return nil
	case c.call == nil:
		return io.EOF
	default:
		return c.call.CloseSend()
	}
}

func (c *eagerCall) isSettled() bool {
	select {
	case <-c.settled:
		return true
	default:
		return false
	}
}

// Recv implements Call.
func (c *eagerCall) Recv() (mem.BufferSlice, error) {
	if !c.isSettled() {
		c.settle()
	}
	if c.call == nil {
		return nil, c.err
	}
	return c.call.Recv()
}

// settle waits for the word of the replica, and finds another way if it cannot serve the call.
func (c *eagerCall) settle() {
	ready, err := c.stream.Wait()
	if ready {
		c.r.hops.WithLabelValues("served").Inc()
		c.become(c.stream, nil, false)
		return
	}
	c.watch.cool()
	if !errors.Is(err, peer.ErrRefused) {
		c.r.hops.WithLabelValues("lost").Inc()
		c.stream.Finish(false)
		c.become(nil, c.stream.Lost(err), false)
		return
	}
	c.r.hops.WithLabelValues("busy").Inc()
	c.stream.Finish(false)
	call, err := c.r.open(c.ctx, c.q, false)
	c.become(call, err, err != nil)
}

// become settles the call. What was kept is sent again on any other than the one that it was kept for.
func (c *eagerCall) become(call Call, err error, unopened bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(c.settled)
	c.call, c.err, c.unopened = call, err, unopened
	if call == nil || call == Call(c.stream) {
		c.forget()
		return
	}
	for _, msg := range c.kept {
		_ = call.Send(msg) // its failure is Recv's to find
	}
	c.kept = nil
	if c.closed {
		_ = call.CloseSend()
	}
}

// forget frees what was kept. mu is held.
func (c *eagerCall) forget() {
	for _, msg := range c.kept {
		msg.Free()
	}
	c.kept = nil
}

// Unopened says why there was no stream for the call after all; nil: there was one, or it is not known yet.
func (c *eagerCall) Unopened() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unopened {
		return c.err
	}
	return nil
}

// Finish implements Call.
func (c *eagerCall) Finish(done bool) {
	c.mu.Lock()
	call := c.call
	c.forget()
	c.mu.Unlock()
	if call != nil {
		call.Finish(done)
	} else {
		c.stream.Finish(false)
	}
	c.r.watches.put(c.watch)
}
