package gitaly

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/fault"
)

// throttlePause is the least time to leave a server alone that says that it has too much to do.
const throttlePause = 10 * time.Second

// protocolError says that a server answered what it must not answer.
type protocolError string

func (e protocolError) Error() string { return "protocol error: " + string(e) }

// judge makes of the outcome of a call what callers get. Server trouble is always Unavailable: it is for the caller to retry, and
// never for an agent to hear. Above all a server that refuses kas does not refuse the agent.
func (o *operation) judge(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if own := ownEnd(ctx, err); own != nil {
		return fmt.Errorf("project %q: read repository: %w", o.project, own)
	}
	var judged *fault.Error
	if errors.As(err, &judged) {
		return err
	}
	var malformed protocolError
	if errors.As(err, &malformed) {
		return o.unavailable(malformed.Error())
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		o.alert(st.Code(), "Gitaly refuses kas: check the secret in GitLab's Gitaly settings, and the clocks", st.Message())
		return o.unavailable("Gitaly refuses kas, the operator has to mend that")
	case codes.InvalidArgument, codes.Unimplemented:
		o.alert(st.Code(), "Gitaly does not accept a call of kas", st.Message())
	case codes.ResourceExhausted:
		throttled := o.unavailable("Gitaly has too much to do: " + st.Message())
		throttled.RetryAfter = max(throttlePause, retryAfter(st))
		return throttled
	case codes.DeadlineExceeded:
		return o.unavailable("Gitaly did not answer in time")
	case codes.NotFound:
		return o.unavailable("repository not found where GitLab says it is: " + st.Message())
	}
	return o.unavailable(fmt.Sprintf("Gitaly: %s: %s", st.Code(), st.Message()))
}

func (o *operation) unavailable(text string) *fault.Error {
	return fault.New(fault.Unavailable, fault.Git, "project %q: repository cannot be read now: %s", o.project, text)
}

func (o *operation) alert(code codes.Code, text, reason string) {
	o.c.alerts.raise(o.address, code, text, zap.String("reason", reason), zap.String("project_id", o.project),
		zap.String("storage", o.repository.StorageName), zap.String("correlation_id", o.correlation))
}

func retryAfter(st *status.Status) time.Duration {
	for _, detail := range st.Details() {
		if limit, ok := detail.(*gitalypb.LimitError); ok {
			return limit.GetRetryAfter().AsDuration()
		}
	}
	return 0
}

// isUnknownMethod recognizes a server without the method: Gitaly's answer, and Praefect's.
func isUnknownMethod(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.Unimplemented ||
		st.Code() == codes.Internal && strings.Contains(st.Message(), "full method name not found")
}

func isUnhealthyPrimary(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.Internal && strings.Contains(st.Message(), "primary gitaly is not healthy")
}

// isUnresolved recognizes "no such revision or folder" of GetTreeEntries, whose code depends on the version.
func isUnresolved(err error) bool {
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument && st.Code() != codes.NotFound {
		return false
	}
	for _, detail := range st.Details() {
		if problem, ok := detail.(*gitalypb.GetTreeEntriesError); ok && problem.GetResolveTree() != nil {
			return true
		}
	}
	return false
}

var missingRepository = regexp.MustCompile(`repository not found|not a git repository|repository ".*"/".*" not found|storage does not exist`)

// isMissingEntry recognizes "no such file" of TreeEntry. The same code stands for a missing repository, and only the text tells
// them apart. An unknown text counts as a missing repository: that is tried again, while a missing file takes effect.
func isMissingEntry(err error, path string) bool {
	st := status.Convert(err)
	if st.Code() != codes.NotFound {
		return false
	}
	text := st.Message()
	if strings.Contains(text, "tree entry not found") || strings.HasSuffix(text, "not found: "+path) {
		return true
	}
	return !missingRepository.MatchString(text) && strings.Contains(text, "not found: ")
}

// deadlineSkew is how much earlier than ours Gitaly's clock may find that our caller's deadline has passed.
const deadlineSkew = 100 * time.Millisecond

// ownEnd is the caller's own end if that is why a call failed. Gitaly is told the deadline, and its answer that it has passed may
// be here before our own timer.
func ownEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	end, limited := ctx.Deadline()
	if limited && status.Code(err) == codes.DeadlineExceeded && time.Until(end) < deadlineSkew {
		return context.DeadlineExceeded
	}
	return nil
}
