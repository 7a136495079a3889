// Package fault is the one typed error that crosses edges. A fault says what kind of failure it is, which hop of the line it
// happened at, and what the user may read. Everything else wraps with fmt.Errorf; only edges (gRPC handlers, the HTTP proxy)
// look at the kind, through the one table below.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind is the class of a failure; it decides the gRPC code and the HTTP status.
type Kind uint8

// Kinds of failure. The zero value is Internal, so that a forgotten kind is never mistaken for success.
const (
	Internal Kind = iota
	InvalidArgument
	Unauthenticated
	PermissionDenied
	NotFound
	FailedPrecondition
	ResourceExhausted
	Unavailable
	Canceled
	DeadlineExceeded
	Unimplemented
)

// Hop is the part of the line where a failure happened, as users read it.
type Hop string

// Hops of the line, in the order a request passes them.
const (
	Client    Hop = "client"
	Kas       Hop = "kas"
	OtherKas  Hop = "other kas"
	Agent     Hop = "agent"
	APIServer Hop = "Kubernetes API server"
	GitLab    Hop = "GitLab"
	Git       Hop = "git"
)

// table maps every kind once: Kind -> gRPC -> HTTP.
var table = [...]struct {
	code codes.Code
	http int
	name string
}{
	Internal:           {codes.Internal, http.StatusInternalServerError, "internal"},
	InvalidArgument:    {codes.InvalidArgument, http.StatusBadRequest, "invalid argument"},
	Unauthenticated:    {codes.Unauthenticated, http.StatusUnauthorized, "unauthenticated"},
	PermissionDenied:   {codes.PermissionDenied, http.StatusForbidden, "permission denied"},
	NotFound:           {codes.NotFound, http.StatusNotFound, "not found"},
	FailedPrecondition: {codes.FailedPrecondition, http.StatusBadRequest, "failed precondition"},
	ResourceExhausted:  {codes.ResourceExhausted, http.StatusTooManyRequests, "resource exhausted"},
	Unavailable:        {codes.Unavailable, http.StatusBadGateway, "unavailable"},
	Canceled:           {codes.Canceled, http.StatusBadGateway, "canceled"},
	DeadlineExceeded:   {codes.DeadlineExceeded, http.StatusBadGateway, "deadline exceeded"},
	Unimplemented:      {codes.Unimplemented, http.StatusNotImplemented, "unimplemented"},
}

// Code is the gRPC code of a kind.
func (k Kind) Code() codes.Code { return table[k].code }

// HTTP is the status that a proxy client gets for a kind.
func (k Kind) HTTP() int { return table[k].http }

func (k Kind) String() string { return table[k].name }

// Error is a failure of a known kind at a known hop. Msg may be shown to users: it never carries a secret.
type Error struct {
	Kind Kind
	Hop  Hop
	Msg  string
	// Err is the cause, nil if Msg says it all. Its text is shown to users too.
	Err error
	// RetryAfter tells the client when to come back; zero means it is not told.
	RetryAfter time.Duration
}

// New returns a fault without a cause.
func New(kind Kind, hop Hop, format string, args ...any) *Error {
	return &Error{Kind: kind, Hop: hop, Msg: fmt.Sprintf(format, args...)}
}

// Wrap returns a fault with a cause.
func Wrap(kind Kind, hop Hop, err error, format string, args ...any) *Error {
	return &Error{Kind: kind, Hop: hop, Msg: fmt.Sprintf(format, args...), Err: err}
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Msg
	}
	return e.Msg + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// GRPCStatus lets gRPC handlers return a fault as it is.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Kind.Code(), e.Error()) }

// KindOf finds the kind of an error: that of a wrapped fault, of a gRPC status, or of a context error; otherwise Internal.
func KindOf(err error) Kind {
	var f *Error
	if errors.As(err, &f) {
		return f.Kind
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	if st, ok := status.FromError(err); ok {
		for k := range table {
			if table[k].code == st.Code() {
				return Kind(k)
			}
		}
	}
	return Internal
}

// HopOf finds the hop of a wrapped fault, or says "".
func HopOf(err error) Hop {
	var f *Error
	if errors.As(err, &f) {
		return f.Hop
	}
	return ""
}

// RetryAfterOf is when whoever failed wants to be asked again; zero: it did not say.
func RetryAfterOf(err error) time.Duration {
	var f *Error
	if errors.As(err, &f) {
		return f.RetryAfter
	}
	return 0
}
