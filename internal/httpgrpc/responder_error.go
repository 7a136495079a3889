package httpgrpc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// responderPrefix tells the reader of an error which translation failed.
const responderPrefix = "gRPC -> HTTP: "

// stepError is a failure while bytes were being passed on.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// sendError is a failure of the stream to the requester.
type sendError struct{ err error }

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// atStep names the step of a copy that failed, unless it failed because the requester is gone.
func atStep(step string, err error) error {
	var failed *sendError
	if errors.As(err, &failed) {
		return failed.err
	}
	return &stepError{step: step, err: err}
}

// unperformed is the failure of the Performer. The io.EOF of a server that closed its connection must not be taken for that of a
// requester who is gone.
func unperformed(err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if st, known := status.FromError(err); known {
		return st.Err()
	}
	return status.Error(codes.Unavailable, responderPrefix+err.Error())
}

// status turns the result of an exchange into a gRPC status. What ended the exchange as a whole, such as a breach of the frame
// order, wins over the errors that followed from it.
func (x *served) status(err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(x.ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Canceled, responderPrefix+"requester is gone")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	var step *stepError
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, responderPrefix+err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, responderPrefix+err.Error())
	case errors.As(err, &step):
		return status.Error(codes.Canceled, responderPrefix+err.Error())
	}
	return status.Error(codes.Unavailable, responderPrefix+err.Error())
}
