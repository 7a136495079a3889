package gitlab

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
)

// StatusError is an answer of GitLab that is not the hoped-for one.
type StatusError struct {
	// Code is the HTTP status.
	Code int
	// Path of the request, with the prefix of GitLab's address and without the query.
	Path string
	// Reason is what GitLab says about it; only known for the authorization of users, and never to be shown to them.
	Reason string
	// RetryAfter is how long GitLab wants to be left alone; 0: it does not say.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := "HTTP status code: " + strconv.Itoa(e.Code) + " for path " + e.Path
	if e.Reason != "" {
		text += " with reason " + e.Reason
	}
	return text
}

// answerError is an answer that cannot be understood or believed.
type answerError struct{ msg string }

func (e *answerError) Error() string { return e.msg }

// failure is a fault whose cause the operator reads in full and the agent does not.
type failure struct {
	fault *fault.Error
	// text is for logs.
	text  string
	cause error
}

func (f *failure) Error() string              { return f.text }
func (f *failure) Unwrap() []error            { return []error{f.fault, f.cause} }
func (f *failure) GRPCStatus() *status.Status { return f.fault.GRPCStatus() }

// fail makes a fault of what went wrong with a call. ctx is that of the caller.
func fail(ctx context.Context, q *call, err error) error {
	var known *fault.Error
	var code *StatusError
	var answer *answerError
	switch {
	case errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return fault.Wrap(fault.KindOf(ctx.Err()), fault.GitLab, ctx.Err(), "%s %s", q.method, q.path)
	case errors.As(err, &code):
		text := code.Error()
		return &failure{fault: &fault.Error{Kind: kindOf(code.Code), Hop: fault.GitLab, Msg: text, RetryAfter: code.RetryAfter}, text: text, cause: err}
	case errors.As(err, &answer):
		return &failure{fault: fault.New(fault.Internal, fault.GitLab, "%s", answer.msg), text: answer.msg, cause: err}
	case errors.Is(err, errLimited):
		return fault.Wrap(fault.Unavailable, fault.Kas, err, "%s %s", q.method, q.path)
	default:
		return fault.Wrap(fault.Unavailable, fault.GitLab, err, "%s %s", q.method, q.path)
	}
}

func kindOf(code int) fault.Kind {
	switch {
	case code == http.StatusUnauthorized:
		return fault.Unauthenticated
	case code == http.StatusForbidden:
		return fault.PermissionDenied
	case code == http.StatusNotFound:
		return fault.NotFound
	case code == http.StatusTooManyRequests, code >= http.StatusInternalServerError && code != http.StatusNotImplemented:
		return fault.Unavailable
	default:
		return fault.Internal
	}
}

// failAgent is fail for calls on behalf of an agent: the agent learns whether it was refused, and nothing about GitLab.
func failAgent(ctx context.Context, q *call, err error, notFound string) error {
	err = fail(ctx, q, err)
	kind, msg := fault.KindOf(err), ""
	switch kind {
	case fault.Unauthenticated:
		msg = "unauthenticated"
	case fault.PermissionDenied:
		msg = "forbidden"
	case fault.NotFound:
		msg = notFound
	case fault.Canceled, fault.DeadlineExceeded:
		return err
	default:
		msg = "unavailable"
		shown := fault.New(fault.Unavailable, fault.HopOf(err), "%s", msg)
		shown.RetryAfter = fault.RetryAfterOf(err)
		return &failure{fault: shown, text: msg + ": " + err.Error(), cause: err}
	}
	return &failure{fault: fault.New(kind, fault.GitLab, "%s", msg), text: msg, cause: err}
}
