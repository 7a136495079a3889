package httpgrpc

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/frame"
)

// lingerTimeout is how long an upgraded connection that takes no more bytes may still deliver some.
const lingerTimeout = 5 * time.Second

// pipe carries raw bytes both ways until either side closes, and then ends both. It closes conn.
func (x *served) pipe(conn io.ReadWriteCloser) error {
	// The connection is no transport's any more, so the end of the call has to be passed on to it.
	stop := context.AfterFunc(x.ctx, func() { _ = conn.Close() })
	defer stop()
	var requesterClosed atomic.Bool
	go func() {
		err := x.receiveUpgraded(conn)
		if err != nil {
			x.cancel(err)
		}
		requesterClosed.Store(true)
		_ = conn.Close()
	}()
	err := x.copy(x.stream, conn, frame.HTTPUpgradeData, idleChunk, false)
	_ = conn.Close()
	var failed *sendError
	switch {
	case errors.As(err, &failed):
		return failed.err
	case x.ctx.Err() != nil:
		return x.ctx.Err()
	case requesterClosed.Load():
		return nil
	case err != nil:
		return atStep("read upgrade response body", err)
	}
	return nil
}

// receiveUpgraded writes the requester's bytes to conn until the requester half-closes.
func (x *served) receiveUpgraded(conn io.WriteCloser) error {
	if x.body != nil {
		select {
		case <-x.body.done: // the frames are ours now
		case <-x.ctx.Done():
			return nil
		}
		if !errors.Is(x.body.err, io.EOF) {
			return nil // the pump has ended the exchange
		}
	}
	broken := false
	out := gather{to: conn}
	defer func() { _ = out.flush() }() // nothing is left to do for those bytes than to try
	for {
		member, payload, err := x.frames.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if member != frame.HTTPUpgradeData {
			payload.Free()
			return status.Error(codes.Internal, "unexpected HttpRequest message on an upgraded connection")
		}
		if broken {
			payload.Free()
			continue
		}
		write := out.last
		if x.moreReceived() {
			write = out.add
		}
		if write(payload) != nil {
			// What the cluster sent before it closed is still to be read; the reading side notices the end.
			broken = true
			time.AfterFunc(lingerTimeout, func() { _ = conn.Close() })
		}
	}
}

// moreReceived says whether the next frame is there already, where the stream can tell.
func (x *served) moreReceived() bool {
	s, ok := x.stream.(interface{ Received() int })
	return ok && s.Received() > 0
}
