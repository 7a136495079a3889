package peer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/frame"
)

// drainTimeout is how long the other kas may take to end its side after an exchange is over.
const drainTimeout = 15 * time.Second

// Stream is a request at another replica, and then the call through it. Wait comes first, then Start; after that it is used
// like a stream of the agent: Send and CloseSend must not overlap, Recv may run beside them.
type Stream struct {
	pool   *Pool
	conn   *conn
	at     replica
	stream grpc.ClientStream
	cancel context.CancelFunc
	// disown unties the stream from the context it hangs on; false: that has ended already.
	disown func() bool
	finish sync.Once
	// last is the member received last.
	last  protowire.Number
	eager bool
}

// ErrRefused is what Wait of an eager request says when the other replica has not begun it.
var ErrRefused = errors.New("the other kas has no stream free")

// URL is where the other replica is.
func (s *Stream) URL() string { return string(s.at) }

// Lost is the failure of an eager request of which nobody knows whether it has begun, made of the error of Wait.
func (s *Stream) Lost(err error) error { return s.at.lost(err) }

// Wait waits for the next word of the other replica. ready: it holds a stream of the agent for this request. Otherwise it has
// none yet, and Wait may be called again. io.EOF: it has waited long enough, it may be asked anew. Other errors are faults:
// ResourceExhausted and InvalidArgument are about the agent, the others about the other kas.
func (s *Stream) Wait() (ready bool, err error) {
	raw := frame.Raw{}
	if err := s.stream.RecvMsg(&raw); err != nil {
		switch {
		case s.eager && status.Code(err) == codes.Unauthenticated:
			return false, ErrRefused
		case s.eager, errors.Is(err, io.EOF):
			return false, err
		}
		return false, s.at.refusal(err)
	}
	defer raw.Data.Free()
	member, err := frame.Member(raw.Data, memberNoTunnel)
	switch {
	case err == nil && member == memberReady:
		s.last = memberReady
		s.noteOffer()
		return true, nil
	case err == nil && member == memberNoTunnel && s.eager:
		return false, ErrRefused
	case err == nil && member == memberNoTunnel:
		return false, nil
	default:
		return false, s.at.breach("it answered before it had a stream")
	}
}

// noteOffer notes whether the replica serves series.
func (s *Stream) noteOffer() {
	if s.conn.serial.Load() {
		return
	}
	if md, err := s.stream.Header(); err == nil && len(md[metaSeries]) > 0 {
		s.conn.serial.Store(true)
	}
}

// Adopt ties the stream to another context; false: it has just been ended.
func (s *Stream) Adopt(ctx context.Context) bool {
	if !s.disown() {
		return false
	}
	s.disown = context.AfterFunc(ctx, s.cancel)
	return true
}

// Start tells the other replica to begin, unless the request is eager. Until then the agent has heard nothing of it.
func (s *Stream) Start() error { return s.Send(nil) }

// Send sends one serialized request message. It owns msg.
func (s *Stream) Send(msg mem.BufferSlice) error {
	err := s.stream.SendMsg(&frame.Raw{Data: msg})
	if errors.Is(err, io.EOF) {
		return err // the call is over, Recv knows why
	}
	if err != nil {
		return s.at.failure(err)
	}
	return nil
}

// CloseSend says that no request message follows.
func (s *Stream) CloseSend() error {
	if err := s.stream.CloseSend(); err != nil {
		return s.at.failure(err)
	}
	return nil
}

// Recv returns the next serialized response message. io.EOF: the call ended with OK. Otherwise a gRPC status: that of the call,
// or what became of the agent or the other kas on the way.
func (s *Stream) Recv() (mem.BufferSlice, error) {
	for {
		raw := frame.Raw{}
		if err := s.stream.RecvMsg(&raw); err != nil {
			return nil, s.ended(err)
		}
		member, err := frame.Member(raw.Data, memberNoTunnel)
		if err != nil || !follows(s.last, member) {
			raw.Data.Free()
			return nil, s.at.breach("message out of order or malformed")
		}
		s.last = member
		switch member {
		case frame.ConnectMessage:
			payload, err := frame.Unwrap(raw.Data, frame.ConnectMessage)
			if err != nil {
				return nil, s.at.breach(err.Error())
			}
			return payload, nil
		case frame.ConnectError:
			return nil, s.at.callError(raw.Data)
		default: // header and trailer metadata has no reader
			raw.Data.Free()
		}
	}
}

// follows checks the order ready, header, message*, trailer, [error]; or ready, error.
func follows(last, next protowire.Number) bool {
	switch next {
	case frame.ConnectHeader:
		return last == memberReady
	case frame.ConnectMessage, frame.ConnectTrailer:
		return last == frame.ConnectHeader || last == frame.ConnectMessage
	case frame.ConnectError:
		return last == memberReady || last == frame.ConnectTrailer
	default:
		return false
	}
}

// ended explains the end of a call that was started.
func (s *Stream) ended(err error) error {
	if errors.Is(err, io.EOF) && (s.last == frame.ConnectTrailer || s.last == frame.ConnectError) {
		return io.EOF
	}
	return s.at.ended(err)
}

// Finish gives the stream back, once, after Send and Recv have returned. done: the exchange ended in order; what the other
// replica still sends is read. Otherwise the agent's side ends with Canceled at once.
func (s *Stream) Finish(done bool) {
	s.finish.Do(func() {
		s.disown()
		if !done || s.stream == nil {
			s.cancel()
			s.pool.release(s.conn)
			return
		}
		s.pool.draining.Go(s.drain)
	})
}

// drain reads the end of an exchange.
func (s *Stream) drain() {
	timer := time.AfterFunc(drainTimeout, s.cancel)
	for {
		raw := frame.Raw{}
		if s.stream.RecvMsg(&raw) != nil {
			break
		}
		raw.Data.Free()
	}
	timer.Stop()
	s.cancel()
	s.pool.release(s.conn)
}
