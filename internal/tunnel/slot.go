package tunnel

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

// retry is the timing after failures; a stream that ended in order is reopened at once.
var retry = backoff.Policy{Initial: time.Second, Max: 20 * time.Second, Factor: 1.6, Jitter: 0.2, ResetAfter: 25 * time.Second}

// settleDelay keeps a server that ends every stream at once from being asked in a tight loop.
const settleDelay = 50 * time.Millisecond

var connectDesc = &grpc.StreamDesc{StreamName: "Connect", ServerStreams: true, ClientStreams: true}

// slot keeps one stream, on one goroutine after the other: parked, serving a call, parked again.
type slot struct {
	pool       *Pool
	backoff    *backoff.Backoff
	lastActive time.Time // zero: never
	// started is when the last stream was opened, served whether it ended with a call.
	started time.Time
	served  bool
	// parked is when the stream was parked last.
	parked time.Time
}

// run opens one stream after the other until l.open ends, the slot is surplus, or another goroutine goes on with it. Streams are parked and
// watches served for hours below it, so that its frame and theirs are small: the runtime keeps a stack as small as what is in use allows.
func (s *slot) run(l *lives) {
	for {
		handed, err := s.attempt(l)
		if handed || !s.goOn(l, err) {
			return
		}
	}
}

// resume goes on after a call whose stream is parked again, on the goroutine that has received for the call.
func (s *slot) resume(last *call) {
	handed, err := s.use(last.lives, last.held, last.next, last.streamErr)
	if handed {
		return
	}
	last.held.close()
	if s.goOn(last.lives, err) {
		s.run(last.lives)
	}
}

// goOn says whether to open another stream, once it is time for it. err is how the last one ended.
func (s *slot) goOn(l *lives, err error) bool {
	served, started := s.served, s.started
	now := time.Now()
	if served {
		s.lastActive = now
		s.pool.unused()
	}
	switch {
	case l.open.Err() != nil:
		s.pool.gone()
		return false
	case !served && s.pool.surplus(s.lastActive, now):
		return false
	}
	var delay time.Duration
	switch code := status.Code(err); {
	case err != nil && code != codes.Canceled && code != codes.DeadlineExceeded:
		delay = s.backoff.Next()
		s.pool.cfg.Log.Debug("Tunnel stream failed", zap.Error(err), zap.Duration("retry_in", delay))
	case !served && now.Sub(started) < settleDelay:
		delay = settleDelay
	}
	if delay > 0 && !wait(l.open, delay) {
		s.pool.gone()
		return false
	}
	return true
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// attempt opens one stream and serves the calls on it, one after the other. handed: another goroutine goes on with it.
func (s *slot) attempt(l *lives) (handed bool, err error) {
	s.started, s.served = time.Now(), false
	held := &heldStream{}
	if err = s.open(l, held); err == nil {
		s.pool.park(held)
		s.parked = time.Now()
		var first mem.BufferSlice
		first, err = held.receive()
		handed, err = s.use(l, held, first, err)
	}
	if !handed {
		held.close()
	}
	return handed, err
}

// open opens a stream for calls to come.
func (s *slot) open(l *lives, held *heldStream) (err error) {
	held.ctx, held.cancel = context.WithCancelCause(l.streams)
	held.stop = context.AfterFunc(l.parked, func() { held.endParked(context.Cause(l.parked)) })
	held.rpc, err = s.pool.cfg.Client.NewStream(held.ctx, connectDesc, reversetunnel.ReverseTunnel_Connect_FullMethodName,
		grpc.WaitForReady(true), grpc.ForceCodecV2(frame.Codec{}))
	if err != nil {
		return err
	}
	err = held.rpc.SendMsg(&frame.Raw{Data: mem.BufferSlice{mem.SliceBuffer(s.pool.descriptor)}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	held.address = localAddress(held.rpc)
	return nil
}

// use serves calls until the stream ends, or another goroutine goes on with it. first begins the first call; nil: the stream has ended, without
// an error when kas has no use for it any more.
func (s *slot) use(l *lives, held *heldStream, first mem.BufferSlice, err error) (handed bool, _ error) {
	for first != nil {
		var c *call
		if c, err = s.begin(l, held, first); err != nil {
			return false, err
		}
		s.pool.answered(held.address, time.Since(s.parked))
		err = s.pool.handle(c)
		c.end(nil)
		if err != nil || !s.parkAgain(c) {
			return false, c.finish(s.pool, err)
		}
		s.parked = time.Now()
		if c.accept() {
			return true, nil
		}
		first, err = c.following()
	}
	s.pool.unpark(held)
	return false, err
}

// begin readies the call that has arrived.
func (s *slot) begin(l *lives, held *heldStream, first mem.BufferSlice) (*call, error) {
	method, meta, ok := readRequestInfo(first)
	first.Free()
	err := l.parked.Err()
	switch {
	case !ok:
		err = fault.New(fault.InvalidArgument, fault.Kas, "kas broke the tunnel protocol: first message must be request_info")
	case held.becomeBusy():
		err = nil
	}
	if err != nil {
		s.pool.unpark(held)
		return nil, err
	}
	s.served = true
	waiting := noHint
	if v := meta.Get(MetaWaiting); len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil && n >= 0 {
			waiting = n
		}
	}
	s.pool.used(*l, held, waiting)
	c := &call{slot: s, lives: l, held: held, method: method, meta: meta}
	c.ctx, c.end = context.WithCancelCause(l.calls)
	return c, nil
}

// parkAgain counts the stream of a call that has ended with OK as parked again, if kas has offered that and all of the request is here;
// false: it has not, or the agent stops.
func (s *slot) parkAgain(c *call) bool {
	if !offered(c.meta) || !c.whole() || !s.pool.repark(c.held) {
		return false
	}
	s.served, s.lastActive = false, time.Now()
	return true
}

// handle runs the handler of a call; a panic costs the one call.
func (p *Pool) handle(c *call) (err error) {
	defer p.survive(&err)
	handler := p.handlers[c.method]
	if handler == nil {
		return unserved(c.method)
	}
	return handler(c.ctx, c.meta, c)
}

func unserved(method string) error {
	return fault.New(fault.Unimplemented, fault.Agent, "agent does not serve %s", method)
}

// survive turns a panic into the error of the call.
func (p *Pool) survive(err *error) {
	if r := recover(); r != nil {
		p.cfg.Log.Error("A tunnelled call panicked", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		*err = fault.New(fault.Internal, fault.Agent, "agent: internal error while serving the request")
	}
}
