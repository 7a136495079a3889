package peer

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const (
	// waitLimit is how long a request waits here for a stream of the agent; who asked may ask anew.
	waitLimit = 30 * time.Second
	// startTimeout is how long a stream is held for a replica that does not begin to use it.
	startTimeout = 10 * time.Second
	// replaceLimit is how long a stream that was dead when its request came may take to be replaced.
	replaceLimit = 5 * time.Second
	// eagerBytes of an eager request come before its replica is told that it has begun: that one keeps what it has sent until
	// then, and will not send much without knowing.
	eagerBytes = 16 << 10
)

// gateway serves the requests of other replicas with the streams of its own registry.
type gateway struct {
	registry *tunnel.Registry
	// served are the methods that may be called, as gRPC has them: /service/method.
	served map[string]struct{}
	// survive turns a panic into an error.
	survive grpc.StreamServerInterceptor
	// stopping is closed when no request of a series may begin any more.
	stopping chan struct{}
	// pumps are the goroutines that carry requests to agents.
	pumps sync.WaitGroup
}

// serve is the handler of every method of an agent.
func (g *gateway) serve(_ any, stream grpc.ServerStream) error {
	ctx := stream.Context()
	method, _ := grpc.MethodFromServerStream(stream)
	md, _ := metadata.FromIncomingContext(ctx)
	w, err := wantedFrom(method, md)
	if err != nil {
		return err
	}
	if err := stream.SetHeader(offer); err != nil {
		return err
	}
	if w.eager {
		return g.serveAtOnce(ctx, stream, w)
	}
	t, err := g.find(ctx, stream, w)
	if t == nil || err != nil {
		return err
	}
	f := &forwarding{gateway: g, stream: stream, wanted: w, tunnel: t, started: make(chan struct{})}
	if err := f.sayReady(); err != nil {
		g.registry.Release(t)
		return err
	}
	return f.run(ctx)
}

// serveAtOnce begins an eager request, or refuses it.
func (g *gateway) serveAtOnce(ctx context.Context, stream grpc.ServerStream, w wanted) error {
	f := &forwarding{gateway: g, stream: stream, wanted: w, tunnel: g.registry.TryFind(w.agentID, w.methods...)}
	if f.tunnel == nil || f.start() != nil {
		return stream.SendMsg(&frame.Raw{Data: frame.Empty(memberNoTunnel)})
	}
	g.pumps.Go(f.carry)
	return f.forward(ctx)
}

// wanted is what a replica asks for.
type wanted struct {
	agentID int64
	method  string // as gRPC has it: /service/method
	methods []string
	meta    metadata.MD
	eager   bool
}

// wantedFrom reads the metadata of a request.
func wantedFrom(method string, md metadata.MD) (wanted, error) {
	w := wanted{method: method, methods: append([]string{strings.TrimPrefix(method, "/")}, md[metaRequire]...), meta: metadata.MD{}}
	ids := md[metaAgentID]
	if len(ids) != 1 {
		return w, fault.New(fault.InvalidArgument, fault.Kas, "metadata %s must have exactly one value", metaAgentID)
	}
	var err error
	if w.agentID, err = strconv.ParseInt(ids[0], 10, 64); err != nil || w.agentID <= 0 {
		return w, fault.New(fault.InvalidArgument, fault.Kas, "metadata %s must be an agent's id", metaAgentID)
	}
	w.eager = len(md[metaEager]) > 0
	for name, values := range md {
		if toAgent(name) {
			w.meta[name] = values
		}
	}
	return w, nil
}

// toAgent says which metadata an agent is told: trace context, who asks, and names of ours.
func toAgent(name string) bool {
	switch name {
	case "traceparent", "tracestate", "baggage", "user-agent":
		return true
	}
	return strings.HasPrefix(name, "agentk-") && name != tunnel.MetaWaiting
}

// find takes a stream, or says that there is none and waits. Neither a stream nor an error: the wait was long enough.
func (g *gateway) find(ctx context.Context, stream grpc.ServerStream, w wanted) (*tunnel.Tunnel, error) {
	if t := g.registry.TryFind(w.agentID, w.methods...); t != nil {
		return t, nil
	}
	if announced, connected := g.registry.Announces(w.agentID, w.methods...); connected && !announced {
		return nil, tunnel.Unsupported(w.methods)
	}
	if !g.registry.Presence(w.agentID).Saturated {
		if err := stream.SendMsg(&frame.Raw{Data: frame.Empty(memberNoTunnel)}); err != nil {
			return nil, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	t, err := g.registry.Find(waiting, w.agentID, w.methods...)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return t, err
}

// forwarding is a request on its way through this kas.
type forwarding struct {
	gateway *gateway
	stream  grpc.ServerStream
	wanted  wanted
	// series: the request is one of a series, whose messages are framed.
	series bool
	// taken is how many bytes of the request have come.
	taken int
	// started is closed when the request was sent to the agent or will not be; startErr, set before, says why not.
	started  chan struct{}
	startErr error

	mu sync.Mutex
	// mu is held while the requesting side uses the tunnel. over: it must not any more. begun: the agent has heard of the
	// request. closed: all of the request was sent.
	over, begun, closed bool
	// tunnel is replaced, before started is closed, by one that is not dead.
	tunnel *tunnel.Tunnel

	sending sync.Mutex
	// sending is held while something is sent to the other replica. saidReady: TunnelReady was.
	saidReady atomic.Bool
}

// run passes on until the agent has answered, or the other replica is gone.
func (f *forwarding) run(ctx context.Context) error {
	f.gateway.pumps.Go(f.pump)
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-f.started:
		if f.startErr != nil {
			f.abandon()
			if errors.Is(f.startErr, io.EOF) {
				return nil // the other replica has found another way
			}
			return f.startErr
		}
	case <-ctx.Done():
		f.abandon()
		return ctx.Err()
	case <-timer.C:
		f.abandon()
		return fault.New(fault.DeadlineExceeded, fault.OtherKas, "other kas did not begin its request within %s", startTimeout)
	}
	return f.forward(ctx)
}

// forward passes on until the agent has answered a request that has begun.
func (f *forwarding) forward(ctx context.Context) error {
	stop := context.AfterFunc(ctx, f.abort)
	err := f.answer()
	stop()
	f.end(err)
	return err
}

// abort ends the agent's side.
func (f *forwarding) abort() {
	f.tunnel.Abort(fault.New(fault.Canceled, fault.OtherKas, "other kas ended the request"))
}

// answer passes the agent's frames on.
func (f *forwarding) answer() error {
	for {
		member, raw, err := f.tunnel.RecvFrame()
		if errors.Is(err, io.EOF) && f.series {
			return f.passInSeries(frame.Empty(frame.ConnectTrailer))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.pass(member, raw); err != nil {
			return err
		}
		if member == frame.ConnectError {
			return nil
		}
	}
}

// pass sends a frame of the agent on.
func (f *forwarding) pass(member protowire.Number, raw mem.BufferSlice) error {
	if f.series && (member == frame.ConnectHeader || member == frame.ConnectTrailer) {
		raw.Free()
		return nil
	}
	if f.series {
		return f.passInSeries(raw)
	}
	if err := f.sayReady(); err != nil {
		raw.Free()
		return err
	}
	f.sending.Lock()
	defer f.sending.Unlock()
	return f.stream.SendMsg(&frame.Raw{Data: raw})
}

// sayReady sends TunnelReady, once. For an eager request that can wait until there is more to say, so that it costs nothing.
func (f *forwarding) sayReady() error {
	if f.saidReady.Load() {
		return nil
	}
	f.sending.Lock()
	defer f.sending.Unlock()
	if f.saidReady.Swap(true) {
		return nil
	}
	return f.stream.SendMsg(&frame.Raw{Data: frame.Empty(memberReady)})
}

// end gives the stream back.
func (f *forwarding) end(err error) {
	if err != nil || !f.requestSent() {
		f.abort() // wakes a Send that waits
	}
	f.mu.Lock()
	f.over = true
	done := err == nil && f.closed
	f.mu.Unlock()
	f.tunnel.Finish(done)
}

func (f *forwarding) requestSent() bool {
	if !f.mu.TryLock() {
		return false // a Send is under way
	}
	defer f.mu.Unlock()
	return f.closed
}

// abandon gives back a stream that nobody wants to use after all.
func (f *forwarding) abandon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	if f.begun {
		f.abort()
		f.tunnel.Finish(false)
		return
	}
	if f.tunnel != nil {
		f.gateway.registry.Release(f.tunnel)
	}
}

// pump carries the request to the agent. It ends with the RPC at the latest.
func (f *forwarding) pump() {
	first := frame.Raw{}
	err := f.stream.RecvMsg(&first)
	first.Data.Free()
	if err == nil {
		err = f.use(f.start)
	}
	f.startErr = err
	close(f.started)
	if err == nil {
		f.carry()
	}
}

// carry passes the request's messages on.
func (f *forwarding) carry() {
	for {
		msg, err := f.next()
		if errors.Is(err, io.EOF) {
			_ = f.use(func() error {
				f.closed = true
				return f.tunnel.CloseSend()
			})
			return
		}
		if err != nil {
			return // the end of the stream's context is seen elsewhere
		}
		if f.taken += msg.Len(); f.taken > eagerBytes && f.sayReady() != nil {
			msg.Free()
			return
		}
		err = f.use(func() error { return f.tunnel.Send(msg) })
		if errors.Is(err, errOver) {
			msg.Free()
		}
		if err != nil {
			return // the agent's answer, or its loss, is seen by who reads it
		}
	}
}

// next receives a message of the request; io.EOF: that was all.
func (f *forwarding) next() (mem.BufferSlice, error) {
	if f.series {
		return f.nextInSeries()
	}
	raw := frame.Raw{}
	err := f.stream.RecvMsg(&raw)
	return raw.Data, err
}

var errOver = errors.New("the request is over")

// use lets the requesting side use the tunnel, unless the request is over.
func (f *forwarding) use(what func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return errOver
	}
	return what()
}

// start sends the method to the agent. A stream that turns out to be dead is replaced: nothing has been asked of the agent yet.
func (f *forwarding) start() error {
	if f.startOn() {
		return nil
	}
	ctx, cancel := context.WithTimeout(f.stream.Context(), replaceLimit)
	defer cancel()
	for {
		var err error
		if f.tunnel, err = f.gateway.registry.Find(ctx, f.wanted.agentID, f.wanted.methods...); err != nil {
			return fault.Wrap(fault.Unavailable, fault.Agent, err, "Find tunnel failed: every stream of the agent broke before it could be used")
		}
		if f.startOn() {
			return nil
		}
	}
}

// startOn tries the tunnel there is; false: it is dead.
func (f *forwarding) startOn() bool {
	f.begun = f.tunnel.Start(f.wanted.method, f.wanted.meta) == nil
	if !f.begun {
		f.tunnel.Finish(false)
	}
	return f.begun
}
