package peer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

// seriesLimit ends a series that the other replica has forgotten; its token has expired long before.
const seriesLimit = 15 * time.Second

// offer tells the other replica that this one serves series.
var offer = metadata.Pairs(metaSeries, "1")

// turns serves the requests of a series. A goroutine of its own receives and serves, so that the handler can end the series while that
// one waits for a request.
type turns struct {
	gateway *gateway
	stream  grpc.ServerStream
	// expires is when the series' token does: no request begins later.
	expires time.Time

	mu sync.Mutex
	// mu guards the fields below. busy: a request is being served, or has ended the series. over: no further one begins.
	busy, over bool
}

// serveSeries is the handler of the method that serves requests one after the other. When it ends with OK and without a word about a
// request, that has not begun.
func (g *gateway) serveSeries(srv any, stream grpc.ServerStream) error {
	ctx := stream.Context()
	t := &turns{gateway: g, stream: stream, expires: expiry(ctx)}
	done := make(chan error, 1)
	g.pumps.Go(func() {
		done <- g.survive(srv, stream, &grpc.StreamServerInfo{FullMethod: seriesPath}, func(any, grpc.ServerStream) error { return t.serve() })
	})
	limit := time.NewTimer(seriesLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	case <-g.stopping:
	case <-limit.C:
	}
	if t.end() {
		return ctx.Err()
	}
	return <-done
}

// expiry is that of the token that a call was admitted with.
func expiry(ctx context.Context) time.Time {
	claims := &jwt.RegisteredClaims{}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return time.Time{}
	}
	_, token, _ := strings.Cut(values[0], " ")
	if _, _, err := jwt.NewParser().ParseUnverified(token, claims); err != nil || claims.ExpiresAt == nil {
		return time.Time{}
	}
	return claims.ExpiresAt.Time
}

// serve serves requests until one ends the series.
func (t *turns) serve() error {
	for first := true; ; first = false {
		raw := frame.Raw{}
		if err := t.stream.RecvMsg(&raw); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if !t.begin(first) {
			raw.Data.Free()
			return nil
		}
		again, err := t.turn(raw.Data)
		if err != nil || !again || !t.rest() {
			return err
		}
	}
}

// begin says that a request may begin. The first one does with the token that was just checked.
func (t *turns) begin(first bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy = !t.over && (first || t.valid())
	return t.busy
}

// rest waits for the next request; false: there shall be none.
func (t *turns) rest() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || !t.valid() {
		return false
	}
	t.busy = false
	return true
}

func (t *turns) valid() bool { return time.Now().Before(t.expires) }

// end lets no further request begin. It says whether none is being served.
func (t *turns) end() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return !t.busy
}

// turn serves one request. again: another one may follow.
func (t *turns) turn(first mem.BufferSlice) (again bool, err error) {
	size := first.Len()
	o, ok := readOpening(first.Materialize())
	first.Free()
	if !ok {
		return false, fault.New(fault.InvalidArgument, fault.OtherKas, "a request of a series does not begin as it has to")
	}
	w, err := wantedFrom(o.method, o.meta)
	if err != nil {
		return false, err
	}
	if _, served := t.gateway.served[o.method]; !served {
		return false, status.Error(codes.Unimplemented, "unknown method")
	}
	f := &forwarding{gateway: t.gateway, stream: t.stream, wanted: w, series: true, taken: size}
	f.tunnel = t.gateway.registry.TryFind(w.agentID, w.methods...)
	if f.tunnel == nil || f.start() != nil {
		return false, t.stream.SendMsg(&frame.Raw{Data: frame.Empty(memberNoTunnel)})
	}
	f.send(o)
	if !o.whole {
		t.gateway.pumps.Go(f.carry)
	}
	err = f.forward(t.stream.Context())
	return f.requestSent(), err
}

// send sends what came with the opening of a request. A failure is seen by who reads the answer.
func (f *forwarding) send(o opening) {
	for _, message := range o.messages {
		if f.tunnel.Send(mem.BufferSlice{mem.SliceBuffer(message)}) != nil {
			return
		}
	}
	if o.whole {
		f.closed = true
		_ = f.tunnel.CloseSend()
	}
}

// nextInSeries receives a message of a request that did not come whole; io.EOF: that was all.
func (f *forwarding) nextInSeries() (mem.BufferSlice, error) {
	raw := frame.Raw{}
	if err := f.stream.RecvMsg(&raw); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	member, err := frame.Member(raw.Data, frame.ConnectCloseSend)
	switch {
	case err == nil && member == frame.ConnectResponseMessage:
		return frame.Unwrap(raw.Data, member)
	case err == nil && member == frame.ConnectCloseSend:
		raw.Data.Free()
		return nil, io.EOF
	}
	raw.Data.Free()
	return nil, errors.New("message out of order or malformed")
}

// passInSeries sends on what the other replica needs of the agent's frames. A message says as well that the request has begun.
func (f *forwarding) passInSeries(raw mem.BufferSlice) error {
	f.sending.Lock()
	defer f.sending.Unlock()
	f.saidReady.Store(true)
	return f.stream.SendMsg(&frame.Raw{Data: raw})
}
