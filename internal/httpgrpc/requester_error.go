package httpgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
)

// Stages of an exchange at the requester, as users know them from error texts.
const (
	StageSendHeader  = "failed to send request header"
	StageSendData    = "failed to send request data"
	StageSendTrailer = "failed to send trailer"
	StageSendClose   = "failed to send close frame"
	StageReadBody    = "failed to read request body"
	StageRead        = "failed to read gRPC response"
	StageWrite       = "failed to write HTTP response"
	StageUpgrade     = "unable to upgrade connection"
)

const (
	hopClient = fault.Client
	hopKas    = fault.Kas
	hopAgent  = fault.Agent
)

// Error is the failure of an exchange.
type Error struct {
	// Stage is what could not be done, one of the constants above.
	Stage string
	// Hop is where it failed.
	Hop fault.Hop
	// Err is the cause; a gRPC status if the call itself failed.
	Err error
}

func (e *Error) Error() string { return "HTTP->gRPC: " + e.Stage + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// StreamError is the failure of a call, also of one that could not be opened, in the words of an exchange that waited for its
// response.
func StreamError(ctx context.Context, err error) *Error { return newStreamError(ctx, StageRead, err) }

func (e *requesterExchange) streamError(stage string, err error) *Error {
	return newStreamError(e.ctx, stage, err)
}

// newStreamError names the hop: the one that err knows; for the end of ctx, what ended it, normally the client; otherwise the
// agent. A call that was given up here while ctx goes on is the agent's fault too.
func newStreamError(ctx context.Context, stage string, err error) *Error {
	hop := fault.HopOf(err)
	if hop == "" || hop == hopClient {
		hop = hopAgent
		if cause := context.Cause(ctx); cause != nil {
			err = cause // what the call says is only what followed from it
			if hop = fault.HopOf(cause); hop == "" {
				hop = hopClient
			}
		}
	}
	var st *status.Status
	switch {
	case errors.Is(err, ErrLost):
		return &Error{Stage: stage, Hop: hop, Err: err}
	case errors.Is(err, io.EOF):
		st = status.New(codes.Internal, "the agent ended the call before its answer was complete")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		st = status.FromContextError(err)
	default:
		st = status.Convert(err)
	}
	return &Error{Stage: stage, Hop: hop, Err: st.Err()}
}

// protocolError says that the peer sent something that is not allowed there.
func protocolError(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, hopAgent, "the agent broke the protocol: %s", fmt.Sprintf(format, args...))
}
