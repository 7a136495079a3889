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

// Connect serves one ReverseTunnel/Connect stream of an authenticated agent, until it was used, retired or lost. session ends
// with a cause when the agent may no longer be here; ageLimit ends when the stream should move to a new connection.
//
// Thousands of streams are parked in here. What they wait with is small, and what comes before is done aside.
func (r *Registry) Connect(stream grpc.ServerStream, agentID int64, session, ageLimit context.Context) error {
	c := &connecting{r: r, t: newTunnel(agentID, peerOf(stream.Context()), stream), session: session, ageLimit: ageLimit}
	if err := aside.Do(c.park); err != nil {
		return err
	}
	defer r.leave(c.t)
	if c.wait() {
		return c.ended()
	}
	// The stream should end. Whoever was given it in this very moment keeps it.
	if r.withdraw(c.t) {
		return idleEnd(stream.Context(), session)
	}
	return c.finish()
}

// connecting is a stream in Connect.
type connecting struct {
	r                 *Registry
	t                 *Tunnel
	session, ageLimit context.Context //nolint:containedctx // those of the one call of Connect
	// outcome is how the call on it went, once wait has seen it; nil: the stream was retired.
	outcome *outcome
}

// park makes the stream available.
func (c *connecting) park() error {
	raw, err := receiveDescriptor(c.session, c.t.stream, c.r.cfg.DescriptorTimeout)
	if err != nil {
		return err
	}
	if err := c.r.enter(c.t, raw); err != nil {
		return err
	}
	c.r.park(c.t)
	return nil
}

// wait waits until the stream has served, or was retired: true; or until it should end.
func (c *connecting) wait() bool {
	select {
	case <-c.t.retired:
		return true
	case o := <-c.t.finished:
		c.outcome = &o
		return true
	case <-c.t.stream.Context().Done():
	case <-c.ageLimit.Done():
	case <-c.session.Done():
	case <-c.r.stop:
	}
	return false
}

// ended is the end of a stream that has served or was retired.
func (c *connecting) ended() error {
	if c.outcome == nil {
		return nil
	}
	return c.t.end(*c.outcome)
}

// finish waits for the call that has the stream.
func (c *connecting) finish() error {
	select {
	case <-c.t.retired:
		return nil
	case o := <-c.t.finished:
		return c.t.end(o)
	case <-c.t.stream.Context().Done():
		return status.FromContextError(c.t.stream.Context().Err()).Err()
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

// end ends the agent's RPC as the caller left it.
func (t *Tunnel) end(o outcome) error {
	if o.err != nil || !o.done {
		return o.err
	}
	drained := make(chan struct{})
	go func() { // ends with the RPC at the latest: Recv fails once Connect has returned
		defer close(drained)
		for {
			msg, err := t.Recv()
			if err != nil {
				return
			}
			msg.Free()
		}
	}()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
		return t.breach
	case <-timer.C:
		return fault.New(fault.DeadlineExceeded, fault.Agent, "agent did not end its stream within %s of its answer", drainTimeout)
	}
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
