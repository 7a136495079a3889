package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// Tunnel is one call sent down a stream of an agent. It carries raw gRPC messages and is meant for one caller: Send and CloseSend must
// not overlap, Recv may run beside them.
type Tunnel struct {
	registry *Registry
	stream   *stream
	// waiting is how many further requests waited when the stream was handed out.
	waiting int

	// settled: how the call ends is decided. returned: its caller has given it back.
	settled, returned atomic.Bool

	// Of the receiving side, until Finish. last is the member received last, again that the agent waits for the next call, and
	// breach is set when it broke the protocol.
	last   protowire.Number
	again  bool
	breach error
}

// Start sends the call's method and metadata. It is the first use of a stream after Find.
func (t *Tunnel) Start(method string, meta metadata.MD) error {
	return t.send(requestInfo(method, meta, t.waiting))
}

// Send sends one serialized request message. It owns msg.
func (t *Tunnel) Send(msg mem.BufferSlice) error {
	return t.send(frame.Wrap(frame.ConnectResponseMessage, msg))
}

// CloseSend tells the agent that no request message follows.
func (t *Tunnel) CloseSend() error {
	return t.send(frame.Empty(frame.ConnectCloseSend))
}

func (t *Tunnel) send(msg mem.BufferSlice) error {
	if t.returned.Load() { // the stream may have another call by now
		msg.Free()
		return status.Error(codes.Canceled, "kas: the request is over")
	}
	return sendError(t.stream.rpc.SendMsg(&frame.Raw{Data: msg}))
}

// Recv returns the next serialized response message. io.EOF: the call ended with OK. A gRPC status: it ended with that, or the
// agent is gone (Canceled), or it broke the protocol (InvalidArgument).
func (t *Tunnel) Recv() (mem.BufferSlice, error) {
	for {
		member, raw, err := t.RecvFrame()
		if err != nil {
			return nil, err
		}
		switch member {
		case frame.ConnectMessage:
			payload, err := frame.Unwrap(raw, frame.ConnectMessage)
			if err != nil {
				return nil, t.broken(err)
			}
			return payload, nil
		case frame.ConnectError:
			return nil, t.callError(raw)
		default: // header and trailer metadata has no reader
			raw.Free()
		}
	}
}

// RecvFrame returns the agent's next frame as it came, for who passes it on: header, message, trailer or error, in an order
// that was checked. The last one may be a trailer or an error. Errors are those of Recv.
func (t *Tunnel) RecvFrame() (protowire.Number, mem.BufferSlice, error) {
	if t.again {
		return 0, nil, io.EOF
	}
	raw := frame.Raw{}
	if err := t.stream.rpc.RecvMsg(&raw); err != nil {
		return 0, nil, t.ended(err)
	}
	member, err := frame.Member(raw.Data, frame.ConnectError)
	if err == nil {
		err = t.follows(member)
	}
	if err != nil {
		raw.Data.Free()
		return 0, nil, t.broken(err)
	}
	if member == frame.ConnectTrailer && accepted(raw.Data) {
		t.again = true
		raw.Data.Free()
		return member, frame.Empty(frame.ConnectTrailer), nil
	}
	return member, raw.Data, nil
}

// follows checks the order descriptor, header, message*, trailer, [error]; or descriptor, error.
func (t *Tunnel) follows(member protowire.Number) error {
	var legal bool
	switch t.last {
	case frame.ConnectDescriptor:
		legal = member == frame.ConnectHeader || member == frame.ConnectError
	case frame.ConnectHeader, frame.ConnectMessage:
		legal = member == frame.ConnectMessage || member == frame.ConnectTrailer
	case frame.ConnectTrailer:
		legal = member == frame.ConnectError
	}
	if !legal {
		return fmt.Errorf("member %d may not follow member %d", member, t.last)
	}
	t.last = member
	return nil
}

// ended explains the end of the stream.
func (t *Tunnel) ended(err error) error {
	if errors.Is(err, io.EOF) {
		switch t.last {
		case frame.ConnectTrailer, frame.ConnectError:
			return io.EOF
		default:
			return t.broken(errors.New("the stream ended before its trailer"))
		}
	}
	st := status.Convert(err)
	if st.Code() == codes.Canceled {
		// The words after the colon are the stock server's, which people search for.
		return lostError{status.New(codes.Canceled, "agent disconnected before it had answered: "+st.Message())}
	}
	if st.Code() == codes.ResourceExhausted || st.Code() == codes.Internal {
		return t.broken(errors.New(st.Message()))
	}
	return err
}

// broken records a breach of the protocol: the agent's RPC will end with InvalidArgument too.
func (t *Tunnel) broken(err error) error {
	t.breach = protocolFault("%s", err)
	return status.Error(codes.InvalidArgument, t.breach.Error())
}

// callError returns the status that the agent's Error message carries.
func (t *Tunnel) callError(data mem.BufferSlice) error {
	defer data.Free()
	req := &reversetunnel.ConnectRequest{}
	if err := frame.Unmarshal(data, req); err != nil {
		return t.broken(err)
	}
	st := req.GetError().GetStatus()
	if st == nil || st.Code == int32(codes.OK) {
		return t.broken(errors.New("error without a status"))
	}
	return status.ErrorProto(&spb.Status{Code: st.Code, Message: st.Message, Details: st.Details})
}

// Abort ends the agent's RPC with err, from any goroutine: Send and Recv in progress fail. Later calls of Abort and Finish do
// nothing.
func (t *Tunnel) Abort(err error) { t.end(err) }

// Finish gives the stream back after Send and Recv have returned. done: the exchange ended in order; what the agent still sends
// is read, and then the stream waits for its next call, or, where the agent does not do that, its RPC ends with OK. Otherwise the RPC ends
// with Canceled, or with the code of the agent's own breach.
func (t *Tunnel) Finish(done bool) {
	t.returned.Store(true)
	switch {
	case t.breach != nil:
		t.end(t.breach)
	case !done:
		t.end(fault.New(fault.Canceled, fault.Kas, "kas: the caller ended the request"))
	case !t.settled.CompareAndSwap(false, true):
	case t.again:
		t.registry.repark(t.stream)
	default:
		go t.drain()
	}
}

// end ends the agent's RPC, unless it is decided already how the call ends.
func (t *Tunnel) end(err error) {
	if t.settled.CompareAndSwap(false, true) {
		t.stream.end(err)
	}
}

// drain reads what the agent still sends after an exchange that ended in order. It ends with the RPC at the latest: Recv fails once Connect
// has returned.
func (t *Tunnel) drain() {
	late := time.AfterFunc(drainTimeout, func() {
		t.stream.end(fault.New(fault.DeadlineExceeded, fault.Agent, "agent did not end its stream within %s of its answer", drainTimeout))
	})
	for {
		msg, err := t.Recv()
		if err != nil {
			break
		}
		msg.Free()
	}
	switch {
	case !late.Stop():
	case t.again:
		t.registry.repark(t.stream)
	default:
		t.stream.end(t.breach)
	}
}

// lostError is a gRPC status that says that the agent was lost.
type lostError struct{ status *status.Status }

func (e lostError) Error() string              { return e.status.Err().Error() }
func (e lostError) GRPCStatus() *status.Status { return e.status }
func (lostError) Is(target error) bool         { return target == httpgrpc.ErrLost }

// sendError turns gRPC's "the stream is over, Recv knows why" into something a caller can show.
func sendError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Unknown || status.Code(err) == codes.Internal {
		return lostError{status.New(codes.Canceled, "agent disconnected: "+status.Convert(err).Message())}
	}
	return err
}
