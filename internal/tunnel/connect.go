package tunnel

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/aside"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	// descriptorTimeout is RegistryConfig's default.
	descriptorTimeout = 20 * time.Second
	// drainTimeout is how long an agent may take to end its side after an exchange is over.
	drainTimeout = 10 * time.Second
)

// Connect serves one ReverseTunnel/Connect stream of an authenticated agent, until it was used up, retired or lost. session ends
// with a cause when the agent may no longer be here; ageLimit ends when the stream should move to a new connection.
//
// Thousands of streams are parked in here. What they wait with is small, and what comes before is done aside.
func (r *Registry) Connect(rpc grpc.ServerStream, agentID int64, session, ageLimit context.Context) error {
	c := &connecting{r: r, t: newStream(agentID, rpc), session: session, ageLimit: ageLimit}
	if err := aside.Do(c.park); err != nil {
		return err
	}
	defer r.leave(c.t)
	if c.wait() {
		return c.err
	}
	// The stream should end. Whoever was given it in this very moment keeps it.
	if r.withdraw(c.t) {
		return idleEnd(rpc.Context(), session)
	}
	return c.finish()
}

// connecting is a stream in Connect.
type connecting struct {
	r                 *Registry
	t                 *stream
	session, ageLimit context.Context //nolint:containedctx // those of the one call of Connect
	// err is how the last call on the stream ended, once wait has seen it.
	err error
}

// park makes the stream available.
func (c *connecting) park() error {
	c.t.peer = peerOf(c.t.rpc.Context())
	for _, ctx := range []context.Context{c.t.rpc.Context(), c.ageLimit, c.session} {
		ctx.Done() // a channel that is there already costs the one who waits no stack
	}
	raw, err := receiveDescriptor(c.session, c.t.rpc, c.r.cfg.DescriptorTimeout)
	if err != nil {
		return err
	}
	if err := c.r.enter(c.t, raw); err != nil {
		return err
	}
	c.r.park(c.t)
	return nil
}

// wait waits until the stream is used up, or was retired: true; or until it should end.
func (c *connecting) wait() bool {
	select {
	case <-c.t.retired:
		return true
	case c.err = <-c.t.ended:
		return true
	case <-c.t.rpc.Context().Done():
	case <-c.ageLimit.Done():
	case <-c.session.Done():
	case <-c.r.stop:
	}
	return false
}

// finish waits for the call that has the stream.
func (c *connecting) finish() error {
	select {
	case <-c.t.retired:
		return nil
	case err := <-c.t.ended:
		return err
	case <-c.t.rpc.Context().Done():
		return status.FromContextError(c.t.rpc.Context().Err()).Err()
	case <-c.session.Done():
		// Without this a revoked agent would keep the requests it already has.
		return context.Cause(c.session)
	}
}

// idleEnd is how an unused stream ends: with the reason the agent may not stay, or with OK.
func idleEnd(stream, session context.Context) error {
	if err := stream.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if session.Err() != nil {
		return context.Cause(session)
	}
	return nil
}

// receiveDescriptor waits for the first message.
func receiveDescriptor(session context.Context, stream grpc.ServerStream, limit time.Duration) ([]byte, error) {
	type received struct {
		raw mem.BufferSlice
		err error
	}
	first := make(chan received, 1)
	go func() { // ends with the RPC at the latest
		raw := frame.Raw{}
		err := stream.RecvMsg(&raw)
		first <- received{raw.Data, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case m := <-first:
		if errors.Is(m.err, io.EOF) {
			return nil, protocolFault("the stream ended before its descriptor")
		}
		if m.err != nil {
			return nil, m.err
		}
		defer m.raw.Free()
		return m.raw.Materialize(), nil
	case <-timer.C:
		return nil, fault.New(fault.DeadlineExceeded, fault.Agent, "agent sent no descriptor within %s", limit)
	case <-session.Done():
		return nil, context.Cause(session)
	}
}

// peerOf names the transport connection, and with it the agent pod.
func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
