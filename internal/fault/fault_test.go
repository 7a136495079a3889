package fault_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
)

func TestTable(t *testing.T) {
	for _, tc := range []struct {
		kind fault.Kind
		code codes.Code
		http int
	}{
		{fault.Internal, codes.Internal, http.StatusInternalServerError},
		{fault.InvalidArgument, codes.InvalidArgument, http.StatusBadRequest},
		{fault.Unauthenticated, codes.Unauthenticated, http.StatusUnauthorized},
		{fault.PermissionDenied, codes.PermissionDenied, http.StatusForbidden},
		{fault.NotFound, codes.NotFound, http.StatusNotFound},
		{fault.ResourceExhausted, codes.ResourceExhausted, http.StatusTooManyRequests},
		{fault.Unavailable, codes.Unavailable, http.StatusBadGateway},
		{fault.Canceled, codes.Canceled, http.StatusBadGateway},
		{fault.DeadlineExceeded, codes.DeadlineExceeded, http.StatusBadGateway},
	} {
		t.Run(tc.kind.String(), func(t *testing.T) {
			err := fmt.Errorf("outer: %w", fault.New(tc.kind, fault.Agent, "what %d", 1))
			if got := fault.KindOf(err); got != tc.kind {
				t.Errorf("kind %v", got)
			}
			if got := fault.HopOf(err); got != fault.Agent {
				t.Errorf("hop %q", got)
			}
			if got := status.Code(err); got != tc.code {
				t.Errorf("code %v, want %v", got, tc.code)
			}
			if got := tc.kind.HTTP(); got != tc.http {
				t.Errorf("HTTP %d, want %d", got, tc.http)
			}
			if got := fault.KindOf(status.Error(tc.code, "from afar")); got != tc.kind {
				t.Errorf("a status of that code has kind %v", got)
			}
		})
	}
}

func TestKindOf_Others(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want fault.Kind
	}{
		{context.Canceled, fault.Canceled},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), fault.DeadlineExceeded},
		{errors.New("anything"), fault.Internal},
		{status.Error(codes.DataLoss, "no kind of its own"), fault.Internal},
	} {
		if got := fault.KindOf(tc.err); got != tc.want {
			t.Errorf("%v: kind %v, want %v", tc.err, got, tc.want)
		}
		if fault.HopOf(tc.err) != "" {
			t.Errorf("%v has a hop", tc.err)
		}
	}
}

func TestError_ShowsItsCause(t *testing.T) {
	cause := errors.New("connection refused")
	err := fault.Wrap(fault.Unavailable, fault.APIServer, cause, "dial %s", "10.0.0.1")
	if err.Error() != "dial 10.0.0.1: connection refused" || !errors.Is(err, cause) {
		t.Errorf("got %q", err)
	}
}

func TestRetryAfterOf(t *testing.T) {
	told := fmt.Errorf("outer: %w", &fault.Error{Kind: fault.Unavailable, RetryAfter: time.Minute})
	for err, want := range map[error]time.Duration{told: time.Minute, fault.New(fault.Unavailable, fault.Git, "down"): 0, errors.New("else"): 0, nil: 0} {
		if got := fault.RetryAfterOf(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
