package server

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/internal/agentconfig"
	"gitlab.com/agentk/agentk/internal/aside"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	resultSent     = "sent"
	resultRejected = "rejected"
	resultError    = "error"

	// settle spreads the streams that one change of the backend wakes together, and joins changes that come in a burst.
	settle = 200 * time.Millisecond
	// checkTimeout bounds one look at the repository; the ports have shorter deadlines of their own.
	checkTimeout = 2 * time.Minute
	// farewell is how long calls of OnConfiguration may go on after the stream: kas cannot stop before them.
	farewell = 3 * time.Second
	// maxStatus bounds the text of a status, which travels in a header.
	maxStatus = 4000
)

var retryPolicy = backoff.Policy{
	Initial:    10 * time.Second,
	Max:        time.Minute,
	Factor:     2,
	Jitter:     1,
	ResetAfter: 2 * time.Minute,
}

// session is one GetConfiguration stream: check, perhaps send, wait, and again.
type session struct {
	s      *Server
	req    *agentconfiguration.ConfigurationRequest
	stream grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse]
	// ctx ends when the stream does, and at its age limit.
	ctx   context.Context //nolint:containedctx // that of the one call of GetConfiguration
	retry *backoff.Backoff
	// agent is whose stream it is, once that is known.
	agent backend.Agent
	// last is the commit that the agent has.
	last string
	// answered says that the response headers are gone.
	answered bool
	// wake is poked when somebody pushed to the project at path; leave ends that.
	path  string
	wake  <-chan struct{}
	leave func()
	// hook is closed when the latest call of OnConfiguration has returned; hooks is what those calls live in.
	hook     chan struct{}
	hooks    context.Context //nolint:containedctx // it outlives the stream's by farewell
	endHooks context.CancelFunc
	legacy   *registration
}

// begin readies a session that has its server, request and stream.
func (x *session) begin() error {
	x.ctx = x.s.cfg.AgeLimit(x.stream.Context())
	// The agent may leave at once: what it was sent is reported all the same.
	x.hooks, x.endHooks = context.WithCancel(context.WithoutCancel(x.stream.Context()))
	x.retry = backoff.New(retryPolicy)
	x.last = x.req.CommitId
	x.leave = func() {}
	x.legacy = newRegistration(x.s.cfg.Registry, x.req)
	return nil
}

// run ends with nil, that is OK, when x.ctx ends before the stream does: at its age limit and when kas stops. It waits most of the time,
// with a small stack: the looks are done aside.
func (x *session) run() error {
	for {
		l := &look{x: x}
		err := aside.Do(l.once)
		if err != nil && x.ctx.Err() == nil {
			return err
		}
		if err != nil || !l.wait() {
			return x.ended()
		}
	}
}

// log is made when there is something to log: a logger with fields of its own holds a buffer, which a stream would keep for hours.
func (x *session) log() *zap.Logger {
	if x.agent.ID == 0 {
		return x.s.cfg.Log
	}
	return x.s.cfg.Log.WithLazy(zap.Int64("agent_id", x.agent.ID), zap.String("project_id", x.agent.Project.Path))
}

// look is one look at the repository, and the wait for the next.
type look struct {
	x *session
	// next is when to look again, unless changed says that the backend has changed.
	next    *time.Timer
	changed <-chan struct{}
	// refresh is when to repeat a registration; nil: there is none.
	refresh *time.Ticker
}

func (l *look) once() error {
	if l.x.s.cfg.Changes != nil {
		l.changed = l.x.s.cfg.Changes.Changed() // before the check, so that no change is missed
	}
	checking, cancel := context.WithTimeout(l.x.ctx, checkTimeout)
	defer cancel()
	pause, err := l.x.check(checking)
	if err != nil {
		return err
	}
	l.next = time.NewTimer(pause)
	l.refresh = l.x.legacy.ticker()
	return nil
}

// ended is the status of a stream that was not ended by an error of its own.
func (x *session) ended() error {
	if err := x.stream.Context().Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return nil
}

// check looks once and says how long to wait before the next time. An error ends the stream.
func (x *session) check(ctx context.Context) (time.Duration, error) {
	agent, err := x.s.cfg.Auth.Agent(ctx)
	if err != nil {
		if transient(err) {
			return x.later("resolve the agent's token", err), nil
		}
		return 0, err
	}
	x.agent = agent
	x.follow(agent.Project.Path)
	x.legacy.put(ctx, agent, x.log())

	head, err := x.s.cfg.Repository.Head(ctx, agent.Project)
	switch {
	case err != nil && fault.KindOf(err) == fault.NotFound:
		return 0, x.reject(agent, "", codes.NotFound, "repository poll failed: project "+agent.Project.Path+": "+err.Error())
	case err != nil:
		return x.later("read the head of the configuration project", err), nil
	case head == "": // an empty repository
		return x.s.cfg.PollPeriod, nil
	case head == x.last:
		x.confirm(agent, head)
		return x.s.cfg.PollPeriod, nil
	}
	return x.fetch(ctx, agent, head)
}

// fetch reads and sends the file of a new commit.
func (x *session) fetch(ctx context.Context, agent backend.Agent, commit string) (time.Duration, error) {
	path, err := agentconfig.Path(agent.Name)
	if err != nil {
		return 0, x.reject(agent, commit, codes.FailedPrecondition, err.Error())
	}
	data, err := x.s.cfg.Repository.File(ctx, agent.Project, commit, path, x.s.cfg.MaxFileSize)
	where := path + " at commit " + short(commit) + ": "
	if err != nil {
		switch fault.KindOf(err) {
		case fault.NotFound: // no file is a valid, empty configuration
			data = nil
		case fault.FailedPrecondition, fault.InvalidArgument:
			return 0, x.reject(agent, commit, codes.FailedPrecondition, where+err.Error())
		default:
			return x.later("read the configuration file", err), nil
		}
	}
	file, err := agentconfig.Parse(data)
	if err != nil {
		return 0, x.reject(agent, commit, codes.FailedPrecondition, where+err.Error())
	}
	return x.s.cfg.PollPeriod, x.send(agent, commit, file)
}

func (x *session) send(agent backend.Agent, commit string, file *agentcfg.ConfigurationFile) error {
	x.tell(agent, file)
	x.answered = true
	err := x.stream.Send(&agentconfiguration.ConfigurationResponse{
		Configuration: agentconfig.ForAgent(file, agent, x.s.cfg.ExternalURL),
		CommitId:      commit,
	})
	if err != nil {
		x.s.results.WithLabelValues(resultError).Inc()
		return err
	}
	x.last = commit
	x.retry.Reset()
	x.s.refusals.forget(agent.ID)
	x.s.results.WithLabelValues(resultSent).Inc()
	x.log().Info("Configuration sent", zap.String("commit_id", commit))
	if keys := agentconfig.NotForwarded(file); len(keys) > 0 {
		x.log().Info("Configuration has keys that nothing reads any more", zap.String("commit_id", commit), zap.Strings("keys", keys))
	}
	return nil
}

// tell calls OnConfiguration beside the stream, one call at a time and in order.
func (x *session) tell(agent backend.Agent, file *agentcfg.ConfigurationFile) {
	if x.s.cfg.OnConfiguration == nil {
		return
	}
	before, done := x.hook, make(chan struct{})
	x.hook = done
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		ctx, cancel := context.WithTimeout(x.hooks, HookTimeout)
		defer cancel()
		x.s.cfg.OnConfiguration(ctx, agent, file)
	}()
}

// reject ends the stream because of something that only the user can mend.
func (x *session) reject(agent backend.Agent, commit string, code codes.Code, text string) error {
	text = "Config: " + text
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "…"
	}
	x.s.results.WithLabelValues(resultRejected).Inc()
	write := x.log().Debug // agents ask again and again
	if x.s.refusals.isNew(agent.ID, text) {
		write = x.log().Info
	}
	write("Configuration rejected", zap.String("commit_id", commit), zap.String("reason", text))
	return status.Error(code, text)
}

// later notes a failure that may pass and says when to try again.
func (x *session) later(what string, err error) time.Duration {
	// A server with too much to do may say how long to leave it alone. The longest that is heard is the time to the next poll.
	delay := max(x.retry.Next(), min(fault.RetryAfterOf(err), x.s.cfg.PollPeriod))
	if fault.KindOf(err) != fault.Canceled {
		x.s.results.WithLabelValues(resultError).Inc()
		x.log().Warn("Configuration poll failed, retrying", zap.String("step", what), zap.Duration("retry_in", delay), zap.Error(err))
	}
	return delay
}

// confirm tells the agent that the commit it has is still the newest.
func (x *session) confirm(agent backend.Agent, commit string) {
	x.s.refusals.forget(agent.ID)
	if x.answered {
		return
	}
	x.answered = true
	if err := x.stream.SendHeader(metadata.Pairs(agentconfig.CurrentHeader, commit)); err != nil {
		x.log().Debug("Header was not sent", zap.Error(err))
	}
}

// follow listens to pushes to the project at path; a project may be renamed meanwhile.
func (x *session) follow(path string) {
	if x.wake != nil && x.path == path {
		return
	}
	x.leave()
	x.path = path
	x.wake, x.leave = x.s.pushes.Join(path)
}

// wait returns true when it is time to look again and false when the stream is to end.
func (l *look) wait() bool {
	defer l.stop()
	var refresh <-chan time.Time
	if l.refresh != nil {
		refresh = l.refresh.C
	}
	for {
		select {
		case <-l.x.ctx.Done():
			return false
		case <-l.next.C:
			return true
		case <-l.x.wake:
			return true
		case <-l.changed:
			l.changed = nil
			l.next.Reset(rand.N(settle))
		case <-refresh:
			l.x.legacy.refresh(l.x.ctx, l.x.log())
		}
	}
}

func (l *look) stop() {
	l.next.Stop()
	if l.refresh != nil {
		l.refresh.Stop()
	}
}

// end waits for what the stream started and undoes what it registered.
func (x *session) end() {
	x.leave()
	x.legacy.remove(x.stream.Context(), x.log())
	if x.hook != nil {
		limit := time.AfterFunc(farewell, x.endHooks)
		defer limit.Stop()
		<-x.hook
	}
	x.endHooks()
}

// transient says that a token may be resolved later, though not now.
func transient(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.Internal, fault.Canceled, fault.DeadlineExceeded:
		return true
	default:
		return false
	}
}

func short(commit string) string { return commit[:min(len(commit), 8)] }
