package server

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

const (
	// settle spreads the streams that one change of the backend wakes together, and joins changes that come in a burst.
	settle = 200 * time.Millisecond
	// lookTimeout bounds one look at the project; the ports have shorter deadlines of their own.
	lookTimeout = 2 * time.Minute
	// maxStatus bounds the text of a status, which travels in a header.
	maxStatus = 4000

	// forever is the pause of those who have nothing more to look for.
	forever = time.Duration(math.MaxInt64)

	pollFailed  = "GitOps: repository poll failed: "
	fetchFailed = "GitOps: failed to get objects to synchronize"
)

var retryPolicy = backoff.Policy{
	Initial:    10 * time.Second,
	Max:        5 * time.Minute,
	Factor:     2,
	Jitter:     1,
	ResetAfter: 10 * time.Minute,
}

type responses = grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse]

// session is one stream: look, wait and look again until there is something to send.
type session struct {
	s      *Server
	req    *gitops.ObjectsToSynchronizeRequest
	ref    backend.Ref
	stream responses
	log    *zap.Logger
	retry  *backoff.Backoff
	// wake is poked when somebody pushed to the project at path; leave ends that.
	path  string
	wake  <-chan struct{}
	leave func()
}

func newSession(s *Server, req *gitops.ObjectsToSynchronizeRequest, stream responses) *session {
	ref := backend.Ref{Branch: req.Ref.GetBranch(), Tag: req.Ref.GetTag(), Commit: req.Ref.GetCommit()}
	return &session{s: s, req: req, ref: ref, stream: stream, log: s.cfg.Log, retry: backoff.New(retryPolicy), leave: func() {}}
}

func (x *session) end() { x.leave() }

// found is a commit that the agent does not have.
type found struct {
	agent   backend.Agent
	project backend.Project
	commit  string
}

// run ends with nil, that is OK, after a batch, and when ctx ends before the stream does: at its age limit and when kas stops.
func (x *session) run(ctx context.Context) error {
	for {
		var changed <-chan struct{}
		if x.s.cfg.Changes != nil {
			changed = x.s.cfg.Changes.Changed() // before the look, so that no change is missed
		}
		looking, cancel := context.WithTimeout(ctx, lookTimeout)
		news, pause, err := x.look(looking)
		cancel()
		switch {
		case ctx.Err() != nil:
			return x.ended()
		case err != nil:
			return err
		case news != nil:
			return x.deliver(news)
		case !x.wait(ctx, pause, changed):
			return x.ended()
		}
	}
}

// ended is the status of a stream that was not ended by an error of its own.
func (x *session) ended() error {
	if err := x.stream.Context().Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return nil
}

// look looks once. It returns what is new, or how long to wait before the next look, or an error that ends the stream.
func (x *session) look(ctx context.Context) (*found, time.Duration, error) {
	agent, err := x.s.cfg.Auth.Agent(ctx)
	if err != nil {
		return x.refusedOr("resolve the agent's token", err)
	}
	x.log = x.s.cfg.Log.With(zap.Int64(telemetry.AgentID, agent.ID), zap.String(telemetry.ProjectID, x.req.ProjectId))
	project, err := x.s.projects.get(ctx, x.s.cfg.Token(ctx), agent, x.req.ProjectId)
	if err != nil {
		return x.refusedOr("ask for the project", err)
	}
	x.follow(project.Path)
	commit, err := x.s.cfg.Repository.Resolve(ctx, project, x.ref)
	switch {
	case err != nil && fault.KindOf(err) == fault.NotFound:
		return nil, 0, x.reject(codes.NotFound, pollFailed+err.Error())
	case err != nil:
		return nil, x.later("find the newest commit", err), nil
	case commit == "", commit == x.req.CommitId: // an empty repository, or nothing new
		if x.ref.Commit != "" { // it will never mean another one
			return nil, forever, nil
		}
		return nil, x.s.cfg.PollPeriod, nil
	}
	x.log.Info("GitOps: new commit", zap.String("commit_id", commit), zap.String("git_ref", x.ref.String()))
	return &found{agent: agent, project: project, commit: commit}, 0, nil
}

// refusedOr ends the stream if the outside world said no. If it did not answer, it is asked again later.
func (x *session) refusedOr(what string, err error) (*found, time.Duration, error) {
	if refused(err) {
		return nil, 0, err
	}
	return nil, x.later(what, err), nil
}

// refused tells an answer from trouble on the way to it.
func refused(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unauthenticated, fault.PermissionDenied, fault.NotFound:
		return true
	default:
		return false
	}
}

// reject ends the stream because of something that only the user can mend.
func (x *session) reject(code codes.Code, text string) error {
	if len(text) > maxStatus {
		text = text[:maxStatus] + "…"
	}
	text = strings.ToValidUTF8(text, "�") // file names may be anything
	x.s.metrics.results.WithLabelValues(resultRejected).Inc()
	x.log.Info("GitOps: rejected", zap.String("reason", text))
	return status.Error(code, text)
}

// later notes a failure that may pass and says when to try again.
func (x *session) later(what string, err error) time.Duration {
	// A server with too much to do may say how long to leave it alone. The longest that is heard is the time to the next poll.
	delay := max(x.retry.Next(), min(fault.RetryAfterOf(err), x.s.cfg.PollPeriod))
	if fault.KindOf(err) != fault.Canceled {
		x.s.metrics.results.WithLabelValues(resultError).Inc()
		x.log.Warn("GitOps: repository poll failed, retrying", zap.String("step", what), zap.Duration(telemetry.RetryIn, delay), zap.Error(err))
	}
	return delay
}

// follow listens to pushes to the project at path; a project may be renamed meanwhile.
func (x *session) follow(path string) {
	if x.ref.Commit != "" || x.wake != nil && x.path == path {
		return
	}
	x.leave()
	x.path = path
	x.wake, x.leave = x.s.pushes.Join(path)
}

// wait returns true when it is time to look again and false when the stream is to end.
func (x *session) wait(ctx context.Context, pause time.Duration, changed <-chan struct{}) bool {
	if pause == forever {
		<-ctx.Done()
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-x.wake:
			return true
		case <-changed:
			changed = nil
			timer.Reset(rand.N(settle))
		}
	}
}
