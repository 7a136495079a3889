package peer

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/frame"
)

// holdBytes of a request, and one message more, are held until it is whole or its answer is waited for: most requests then travel as one
// message, and the other kas knows at once that no more will come. It is below what makes that one say that the request has begun.
const holdBytes = 8 << 10

// Turn is one request in a series. It is used like a Stream that is eager, and what is sent may be held until CloseSend, Wait or Recv.
type Turn struct {
	pool   *Pool
	conn   *conn
	at     replica
	ctx    context.Context // of the request: the series hangs on it until Finish
	finish sync.Once

	mu sync.Mutex
	// mu guards the fields below. held is what was not sent yet, size how much of it are messages. sent: nothing is held any more.
	held  mem.BufferSlice
	size  int
	sent  bool
	whole bool // half-closed
	// series is nil until something is sent; and if nothing could be.
	series *series
	// disown unties the series from the context.
	disown func() bool

	// Of who receives: the member received last, and the message that came with the word that the request has begun.
	last  protowire.Number
	first mem.BufferSlice
}

// URL is where the other replica is.
func (t *Turn) URL() string { return string(t.at) }

// Lost is the failure of a request of which nobody knows whether it has begun, made of the error of Wait.
func (t *Turn) Lost(err error) error { return t.at.lost(err) }

// Send sends one serialized request message. It owns msg.
func (t *Turn) Send(msg mem.BufferSlice) error {
	size := msg.Len()
	framed := frame.Wrap(frame.ConnectResponseMessage, msg)
	t.mu.Lock()
	if t.sent {
		s := t.series
		t.mu.Unlock()
		return t.send(s, framed)
	}
	defer t.mu.Unlock()
	t.held = append(t.held, framed...)
	if t.size += size; t.size > holdBytes {
		t.flush()
	}
	return nil
}

// CloseSend says that no request message follows.
func (t *Turn) CloseSend() error {
	t.mu.Lock()
	t.whole = true
	if t.sent {
		s := t.series
		t.mu.Unlock()
		return t.send(s, frame.Empty(frame.ConnectCloseSend))
	}
	defer t.mu.Unlock()
	t.held = append(t.held, frame.Empty(frame.ConnectCloseSend)...)
	t.flush()
	return nil
}

// send sends on a series; without one Wait knows why.
func (t *Turn) send(s *series, data mem.BufferSlice) error {
	if s == nil {
		data.Free()
		return io.EOF
	}
	err := s.stream.SendMsg(&frame.Raw{Data: data})
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return t.at.failure(err)
}

// flush sends what is held, on a series that still lives or on a new one. mu is held. What a series did not take has not left this kas.
func (t *Turn) flush() {
	t.sent = true
	defer func() {
		t.held.Free()
		t.held = nil
	}()
	for s := t.pool.idleSeries(t.conn); s != nil; s = t.pool.idleSeries(t.conn) {
		t.held.Ref()
		if s.stream.SendMsg(&frame.Raw{Data: t.held}) == nil {
			t.series, t.disown = s, context.AfterFunc(t.ctx, s.cancel)
			return
		}
		s.cut()
	}
	s, disown, err := t.pool.newSeries(t.ctx, t.conn)
	if err != nil {
		return
	}
	t.series, t.disown = s, disown
	t.held.Ref()
	_ = s.stream.SendMsg(&frame.Raw{Data: t.held}) // Wait knows why it fails
}

// sentOn sends what is held, and returns what it was sent on.
func (t *Turn) sentOn() *series {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.sent {
		t.flush()
	}
	return t.series
}

// Wait waits for the word of the other replica. ErrRefused: the request has not begun. Other errors leave that open.
func (t *Turn) Wait() (ready bool, err error) {
	s := t.sentOn()
	if s == nil {
		return false, ErrRefused
	}
	raw := frame.Raw{}
	if err := s.stream.RecvMsg(&raw); err != nil {
		code := status.Code(err)
		if code == codes.Unimplemented {
			t.conn.serial.Store(false) // another version of kas is there now
		}
		if errors.Is(err, io.EOF) || code == codes.Unimplemented || code == codes.Unauthenticated {
			return false, ErrRefused
		}
		return false, err
	}
	member, err := frame.Member(raw.Data, memberNoTunnel)
	switch {
	case err != nil:
		raw.Data.Free()
		return false, t.at.breach(err.Error())
	case member == memberReady:
		raw.Data.Free()
	case member == memberNoTunnel:
		raw.Data.Free()
		return false, ErrRefused
	default:
		t.first = raw.Data
	}
	t.last = memberReady
	return true, nil
}

// Recv returns the next serialized response message, as that of a Stream does. Wait comes first.
func (t *Turn) Recv() (mem.BufferSlice, error) {
	if t.last == frame.ConnectTrailer {
		return nil, io.EOF
	}
	raw := frame.Raw{Data: t.first}
	if t.first = nil; raw.Data == nil {
		if err := t.series.stream.RecvMsg(&raw); err != nil {
			return nil, t.at.ended(err)
		}
	}
	member, err := frame.Member(raw.Data, memberNoTunnel)
	if err == nil && t.last == frame.ConnectError {
		member = 0 // nothing follows an error
	}
	t.last = member
	switch member {
	case frame.ConnectMessage:
		payload, err := frame.Unwrap(raw.Data, frame.ConnectMessage)
		if err != nil {
			return nil, t.at.breach(err.Error())
		}
		return payload, nil
	case frame.ConnectTrailer:
		raw.Data.Free()
		return nil, io.EOF
	case frame.ConnectError:
		return nil, t.at.callError(raw.Data)
	}
	raw.Data.Free()
	return nil, t.at.breach("message out of order or malformed")
}

// Finish gives the turn back, once, after Send and Recv have returned. done: the exchange ended in order, and the series may serve
// another one. Otherwise it ends, and the agent's side with Canceled at once.
func (t *Turn) Finish(done bool) {
	t.finish.Do(func() {
		defer t.pool.release(t.conn)
		t.first.Free()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.sent = true
		t.held.Free()
		if t.series == nil {
			return
		}
		switch tied := t.disown(); {
		case !done || !tied || !t.whole:
			t.series.cut()
		case t.last == frame.ConnectTrailer:
			t.pool.keep(t.series)
		default:
			t.pool.drain(t.series)
		}
	})
}
