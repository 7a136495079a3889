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

// slot is one goroutine that keeps one stream: parked, serving a call, parked again.
type slot struct {
	pool       *Pool
	backoff    *backoff.Backoff
	lastActive time.Time // zero: never
}

// run opens one stream after the other until l.open ends or the slot is surplus.
func (s *slot) run(l lives) {
	for {
		started := time.Now()
		served, err := s.attempt(l)
		now := time.Now()
		if served {
			s.lastActive = now
			s.pool.unused()
		}
		switch {
		case l.open.Err() != nil:
			s.pool.gone()
			return
		case !served && s.pool.surplus(s.lastActive, now):
			return
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
			return
		}
	}
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

// attempt opens one stream and serves at most one call on it; served says whether one arrived.
func (s *slot) attempt(l lives) (served bool, err error) {
	streamCtx, cancel := context.WithCancelCause(l.streams)
	defer cancel(nil)
	release := context.AfterFunc(l.parked, func() { cancel(context.Cause(l.parked)) })
	defer release()

	stream, err := s.pool.cfg.Client.NewStream(streamCtx, connectDesc, reversetunnel.ReverseTunnel_Connect_FullMethodName,
		grpc.WaitForReady(true), grpc.ForceCodecV2(frame.Codec{}))
	if err != nil {
		return false, err
	}
	if err := stream.SendMsg(&frame.Raw{Data: mem.BufferSlice{mem.SliceBuffer(s.pool.descriptor)}}); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	first := frame.Raw{}
	unpark := s.pool.park(stream)
	err = stream.RecvMsg(&first)
	unpark()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return false, nil // retired
		}
		return false, err
	}
	method, meta, ok := readRequestInfo(first.Data)
	first.Data.Free()
	if !ok {
		return false, fault.New(fault.InvalidArgument, fault.Kas, "kas broke the tunnel protocol: first message must be request_info")
	}
	if !release() && l.parked.Err() != nil {
		return false, l.parked.Err()
	}
	waiting := noHint
	if v := meta.Get(MetaWaiting); len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil && n >= 0 {
			waiting = n
		}
	}
	s.pool.used(l, waiting)
	c := &call{stream: stream, cancel: cancel}
	callCtx, end := context.WithCancelCause(streamCtx)
	defer end(nil)
	defer context.AfterFunc(l.calls, func() { end(context.Cause(l.calls)) })()
	return true, c.serve(callCtx, s.pool, method, meta)
}

// handle runs the handler; a panic costs the one call.
func (p *Pool) handle(run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			p.cfg.Log.Error("A tunnelled call panicked", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = fault.New(fault.Internal, fault.Agent, "agent: internal error while serving the request")
		}
	}()
	return run()
}
