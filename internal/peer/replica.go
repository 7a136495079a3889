package peer

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	apikas "gitlab.com/agentk/agentk/api/kas"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// replica is the URL of another replica, which explains what goes wrong with it.
type replica string

// lost is the failure of a request that may have begun, or has.
func (r replica) lost(err error) error {
	st := status.Convert(err)
	return lost{fault.New(fault.Unavailable, fault.OtherKas, "other kas at %s ended the request before its answer was complete: %s", r, st.Message())}
}

// callError returns the status that the agent's Error message carries.
func (r replica) callError(data mem.BufferSlice) error {
	defer data.Free()
	answer := &apikas.GatewayKasResponse{}
	if err := frame.Unmarshal(data, answer); err != nil {
		return r.breach(err.Error())
	}
	st := answer.GetError().GetStatus()
	if st == nil || st.Code == int32(codes.OK) {
		return r.breach("error without a status")
	}
	return status.ErrorProto(st)
}

// ended explains an end of a call that was started, before its answer was complete.
func (r replica) ended(err error) error {
	if errors.Is(err, io.EOF) {
		return r.breach("it ended the call before its trailer")
	}
	switch st := status.Convert(err); st.Code() {
	case codes.Canceled: // in the words of the other kas, which has lost the agent
		return lost{fault.New(fault.Canceled, fault.Agent, "%s", st.Message())}
	case codes.Unavailable:
		return r.lost(err)
	case codes.InvalidArgument:
		return err
	default:
		return r.failure(err)
	}
}

// refusal explains why there will be no call.
func (r replica) refusal(err error) error {
	st := status.Convert(err)
	switch st.Code() {
	case codes.ResourceExhausted:
		return &fault.Error{Kind: fault.ResourceExhausted, Hop: fault.Agent, Msg: st.Message(), RetryAfter: time.Second}
	case codes.InvalidArgument:
		return fault.New(fault.InvalidArgument, fault.Agent, "%s", st.Message())
	default:
		return r.failure(err)
	}
}

// failure is what went wrong with the other replica.
func (r replica) failure(err error) error {
	st := status.Convert(err)
	return fault.New(fault.KindOf(st.Err()), fault.OtherKas, "other kas at %s: %s", r, st.Message())
}

func (r replica) breach(what string) error {
	return fault.New(fault.InvalidArgument, fault.OtherKas, "other kas at %s broke the protocol: %s", r, what)
}

// lost is a fault that says that the agent, or the replica that holds it, was lost on the way.
type lost struct{ fault *fault.Error }

func (e lost) Error() string              { return e.GRPCStatus().Err().Error() }
func (e lost) GRPCStatus() *status.Status { return e.fault.GRPCStatus() }
func (e lost) Unwrap() error              { return e.fault }
func (lost) Is(target error) bool         { return target == httpgrpc.ErrLost }
