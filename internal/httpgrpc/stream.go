// Package httpgrpc carries one HTTP exchange over one gRPC stream, in both roles: Requester (kas: an HTTP request goes in,
// HttpRequest messages go out) and Responder (agentk: HttpRequest messages come in, the request is performed). The frames are
// those of package gitlab.agent.grpctool; api/README.md describes their order. Data frames never pass through generated code:
// see package frame.
package httpgrpc

import (
	"errors"

	"google.golang.org/grpc/mem"
)

// ErrLost is what errors of a Sender or Receiver are (errors.Is) when the peer was lost before it had ended the call.
var ErrLost = errors.New("the peer was lost")

// Sender sends serialized gRPC messages.
type Sender interface {
	// Send sends one serialized message and owns msg from then on, also when it fails. It blocks while the peer's flow
	// control window is full. Calls must not overlap.
	Send(msg mem.BufferSlice) error
}

// Receiver receives serialized gRPC messages.
type Receiver interface {
	// Recv returns the next serialized message; the caller frees it. io.EOF: the peer ended cleanly. Any other error is a
	// gRPC status. Calls must not overlap; a Recv may run beside a Send.
	Recv() (mem.BufferSlice, error)
}

// RequesterStream is the requester's end of a call.
type RequesterStream interface {
	Sender
	Receiver
	// CloseSend half-closes: no Send may follow. It must not overlap with Send.
	CloseSend() error
}

// ResponderStream is the responder's end of a call. Recv says io.EOF when the requester has half-closed.
type ResponderStream interface {
	Sender
	Receiver
	// Ahead says that the responder turns to something else than receiving. From then on the end of the call ends the responder's
	// context also while it is not in Recv, and a few messages may be received before it asks for them. Before, only a Recv notices
	// the end of a call, which spares short calls a goroutine. It must not overlap with Recv.
	Ahead()
}
