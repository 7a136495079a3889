package tunnel

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"gitlab.com/agentk/agentk/internal/frame"
)

// heldStream is one stream at the agent: parked, or busy with a call.
type heldStream struct {
	rpc grpc.ClientStream
	// ctx is the stream's context, cancel ends it. stop keeps the end of parked streams away from it.
	ctx    context.Context //nolint:containedctx // it is the stream's
	cancel context.CancelCauseFunc
	stop   func() bool
	// address is the local one of the connection.
	address string
	// served: the stream is, or was, parked again after a call.
	served bool
	// busy: a call has arrived. gone: it may not any more.
	state atomic.Int32
}

// The states of a heldStream.
const (
	stateParked int32 = iota
	stateBusy
	stateGone
)

// becomeBusy says false when the stream was parked for too long.
func (h *heldStream) becomeBusy() bool { return h.state.CompareAndSwap(stateParked, stateBusy) }

// endParked ends the stream, unless a call has it.
func (h *heldStream) endParked(cause error) {
	if h.state.CompareAndSwap(stateParked, stateGone) {
		h.cancel(cause)
	}
}

// close lets go of what the stream holds.
func (h *heldStream) close() {
	h.stop()
	h.cancel(nil)
}

// receive waits for a message. It returns nil when the stream has ended, without an error when kas has no use for it any more.
func (h *heldStream) receive() (mem.BufferSlice, error) {
	first := frame.Raw{}
	if err := h.rpc.RecvMsg(&first); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return nil, err
	}
	return first.Data, nil
}
