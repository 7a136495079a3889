package tunnel

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
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

// MetaWaiting is a RequestInfo metadata key of ours: how many further requests wait for a stream. An agent of ours opens that
// many at once; a stock agent passes it on to nobody.
const MetaWaiting = "agentk-waiting"

// Tunnel is one parked stream of an agent, and then the call sent down it. It carries raw gRPC messages and is meant for one
// caller: Send and CloseSend must not overlap, Recv may run beside them.
type Tunnel struct {
	agentID int64
	peer    string
	stream  grpc.ServerStream
	desc    *descriptor

	// Guarded by the registry's shard mutex.
	conn     *connStreams
	element  *list.Element // nil: not parked
	handed   bool
	parkedAt time.Time
	waiting  int
	// unwanted: the stream should end as soon as nobody holds it. left: it has ended.
	unwanted, left bool

	// retired is closed by the registry: end with OK.
	retired chan struct{}
	// finished says how the call ended; it is sent once.
	finished   chan outcome
	finishOnce sync.Once

	// last is the member received last; it belongs to the receiving side.
	last int
	// breach is set when the agent broke the protocol; it belongs to the receiving side until Finish.
	breach error
}

// outcome is how the caller leaves a stream.
type outcome struct {
	done bool  // the exchange ended in order: read the agent's trailer and end with OK
	err  error // otherwise: end the RPC with this
}

func newTunnel(agentID int64, peer string, stream grpc.ServerStream) *Tunnel {
	return &Tunnel{
		agentID: agentID, peer: peer, stream: stream, retired: make(chan struct{}), finished: make(chan outcome, 1),
		last: int(frame.ConnectDescriptor),
	}
}

// Start sends the call's method and metadata. It is the first use of a stream after Find.
func (t *Tunnel) Start(method string, meta metadata.MD) error {
	return sendError(t.stream.SendMsg(&frame.Raw{Data: requestInfo(method, meta, t.waiting)}))
}

// Send sends one serialized request message. It owns msg.
func (t *Tunnel) Send(msg mem.BufferSlice) error {
	return sendError(t.stream.SendMsg(&frame.Raw{Data: frame.Wrap(frame.ConnectResponseMessage, msg)}))
}

// CloseSend tells the agent that no request message follows.
func (t *Tunnel) CloseSend() error {
	return sendError(t.stream.SendMsg(&frame.Raw{Data: frame.Empty(frame.ConnectCloseSend)}))
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
	raw := frame.Raw{}
	if err := t.stream.RecvMsg(&raw); err != nil {
		return 0, nil, t.ended(err)
	}
	member, err := frame.Member(raw.Data, frame.ConnectError)
	if err == nil {
		err = t.follows(int(member))
	}
	if err != nil {
		raw.Data.Free()
		return 0, nil, t.broken(err)
	}
	return member, raw.Data, nil
}

// follows checks the order descriptor, header, message*, trailer, [error]; or descriptor, error.
func (t *Tunnel) follows(member int) error {
	var legal bool
	switch t.last {
	case int(frame.ConnectDescriptor):
		legal = member == int(frame.ConnectHeader) || member == int(frame.ConnectError)
	case int(frame.ConnectHeader), int(frame.ConnectMessage):
		legal = member == int(frame.ConnectMessage) || member == int(frame.ConnectTrailer)
	case int(frame.ConnectTrailer):
		legal = member == int(frame.ConnectError)
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
		case int(frame.ConnectTrailer), int(frame.ConnectError):
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
func (t *Tunnel) Abort(err error) { t.finish(outcome{err: err}) }

// Finish gives the stream back after Send and Recv have returned. done: the exchange ended in order; what the agent still sends
// is read and its RPC ends with OK. Otherwise its RPC ends with Canceled, or with the code of its own breach.
func (t *Tunnel) Finish(done bool) {
	switch {
	case t.breach != nil:
		t.finish(outcome{err: t.breach})
	case done:
		t.finish(outcome{done: true})
	default:
		t.finish(outcome{err: fault.New(fault.Canceled, fault.Kas, "kas: the caller ended the request")})
	}
}

func (t *Tunnel) finish(o outcome) { t.finishOnce.Do(func() { t.finished <- o }) }

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
