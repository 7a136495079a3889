// Package agent is the half of the agent configuration that runs in agentk: it holds the GetConfiguration stream open, hands each
// new configuration to the modules, and keeps the last good one when a newer one is refused, by kas or by a module, making the
// refusal visible in the log, in a gauge and as a Kubernetes Event.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/agentconfig"
	"gitlab.com/agentk/agentk/internal/backoff"
)

// Module is a part of the agent that the configuration steers. It must not change the configuration, which all modules share.
type Module interface {
	// Name is what the log calls the module.
	Name() string
	// Validate says what is wrong with a configuration. All modules are asked before any is given it.
	Validate(cfg *agentcfg.AgentConfiguration) error
	// Apply makes the module follow the configuration. Calls do not overlap; while one runs, only the newest configuration
	// waits. Apply must return soon after ctx has ended.
	Apply(ctx context.Context, cfg *agentcfg.AgentConfiguration)
}

// Event is something that the user should find at the agent's Deployment.
type Event struct {
	// Warning is the type of a refusal; otherwise the event is a normal one.
	Warning bool
	// Reason is one of the Reason constants.
	Reason  string
	Message string
}

// Reasons of events.
const (
	ReasonInvalid = "InvalidConfiguration"
	ReasonApplied = "ConfigurationApplied"
)

// Events publishes events, best effort. Emit must return soon after ctx has ended.
type Events interface {
	Emit(ctx context.Context, e Event)
}

// Config configures a Loop. All fields are required unless they say otherwise.
type Config struct {
	Client agentconfiguration.AgentConfigurationClient
	// Meta describes this pod to old servers; it is asked for each stream.
	Meta    func(ctx context.Context) *entity.AgentMeta
	Modules []Module
	// SetLevels changes the levels of the log and of the gRPC library's messages.
	SetLevels func(level, grpcLevel zapcore.Level)
	// Events may be nil.
	Events Events
	Log    *zap.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
}

var (
	retryPolicy = backoff.Policy{
		Initial:    10 * time.Second,
		Max:        5 * time.Minute,
		Factor:     2,
		Jitter:     1,
		ResetAfter: 10 * time.Minute,
	}
	// refusedPolicy does not grow: the user who mends the file is waiting for it.
	refusedPolicy = backoff.Policy{Initial: 10 * time.Second, Max: 10 * time.Second, Factor: 1, Jitter: 1, ResetAfter: time.Minute}
)

// shortest is the least time from one stream to the next. Streams end in order after half an hour or so; a server that ends them
// at once must not make this a busy loop.
const shortest = time.Second

// errRefused marks a configuration that the user has to mend. The last good one stays.
var errRefused = errors.New("configuration refused")

// Loop gets the configuration and passes it on.
type Loop struct {
	cfg     Config
	state   *state
	workers []*worker
	id      *identity
	// commit is what the server is told to be here: the newest commit that was passed to the modules, even if one refused it.
	// applied is the commit of the configuration in use.
	commit, applied string
	ignored         map[string]struct{}
}

// New returns a Loop.
func New(cfg Config) (*Loop, error) {
	if cfg.Client == nil || cfg.Meta == nil || cfg.SetLevels == nil || cfg.Log == nil {
		return nil, errors.New("agent configuration: client, meta, levels and log are required")
	}
	l := &Loop{cfg: cfg, id: newIdentity(), ignored: map[string]struct{}{}}
	var err error
	l.state, err = newState(cfg.Events, cfg.Log, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	for _, m := range cfg.Modules {
		l.workers = append(l.workers, &worker{module: m, pending: make(chan *agentcfg.AgentConfiguration, 1)})
	}
	return l, nil
}

// AgentID waits for the first configuration, which says which agent this is.
func (l *Loop) AgentID(ctx context.Context) (int64, error) { return l.id.wait(ctx) }

// Run gets configurations until ctx ends; then it returns nil, after the modules have returned.
func (l *Loop) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, w := range l.workers {
		group.Go(func() error { return w.run(ctx) })
	}
	group.Go(func() error { return l.state.run(ctx) })
	group.Go(func() error { return l.reconnect(ctx) })
	return group.Wait()
}

// reconnect opens one stream after the other.
func (l *Loop) reconnect(ctx context.Context) error {
	retry, refused := backoff.New(retryPolicy), backoff.New(refusedPolicy)
	for {
		opened := time.Now()
		err := l.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var pause time.Duration
		switch {
		case err == nil:
			pause = max(shortest-time.Since(opened), 0)
		case errors.Is(err, errRefused):
			pause = refused.Next()
		case status.Code(err) == codes.Canceled && time.Since(opened) >= retryPolicy.Initial:
			// A good connection was lost or changed, and the next stream waits for another one.
			pause = max(shortest-time.Since(opened), 0)
			l.logFailure(err, pause)
		default:
			pause = retry.Next()
			l.logFailure(err, pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (l *Loop) logFailure(err error, pause time.Duration) {
	log := l.cfg.Log.Warn
	if code := status.Code(err); code == codes.Canceled || code == codes.DeadlineExceeded {
		log = l.cfg.Log.Debug
	}
	log("Configuration stream ended", zap.Duration("retry_in", pause), zap.Error(err))
}

// stream runs one GetConfiguration call. It returns nil when the server has ended it in order.
func (l *Loop) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.cfg.Client.GetConfiguration(ctx, &agentconfiguration.ConfigurationRequest{
		CommitId:     l.commit,
		AgentMeta:    l.cfg.Meta(ctx),
		SkipRegister: true,
	}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("open the configuration stream: %w", err)
	}
	if header, err := stream.Header(); err == nil {
		if current := header.Get(agentconfig.CurrentHeader); len(current) == 1 && current[0] != "" && current[0] == l.applied {
			l.state.valid(l.applied, false)
		}
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return l.judge(err)
		}
		if err := l.receive(resp); err != nil {
			return err
		}
	}
}

// judge tells a refusal of the user's file from a failure of the line.
func (l *Loop) judge(err error) error {
	st := status.Convert(err)
	about := strings.HasPrefix(st.Message(), "Config:")
	if st.Code() == codes.FailedPrecondition || st.Code() == codes.NotFound && about {
		l.state.invalid(st.Message())
		return fmt.Errorf("%w by kas", errRefused)
	}
	return fmt.Errorf("receive a configuration: %w", err)
}

// receive passes a configuration to the modules, or says why not. An error ends the stream.
func (l *Loop) receive(resp *agentconfiguration.ConfigurationResponse) error {
	if resp.CommitId == "" {
		return status.Error(codes.InvalidArgument, "kas sent a configuration without a commit id")
	}
	cfg := resp.Configuration
	if cfg == nil {
		cfg = &agentcfg.AgentConfiguration{}
	}
	if err := l.id.pin(cfg); err != nil {
		l.state.invalid(err.Error())
		return nil
	}
	// From here on the commit is not asked for again: if a module refuses it, only another commit can help.
	l.commit = resp.CommitId
	for _, w := range l.workers {
		if err := w.module.Validate(cfg); err != nil {
			l.state.invalid(fmt.Sprintf("%s: %v", w.module.Name(), err))
			return nil
		}
	}
	l.apply(resp.CommitId, cfg)
	return nil
}

func (l *Loop) apply(commit string, cfg *agentcfg.AgentConfiguration) {
	l.cfg.SetLevels(levels(cfg.GetObservability().GetLogging()))
	for _, key := range agentconfig.Unsupported(cfg) {
		if _, known := l.ignored[key]; known || len(l.ignored) >= maxIgnored {
			continue
		}
		l.ignored[key] = struct{}{}
		l.cfg.Log.Warn("Configuration key is not supported yet, ignored", zap.String("key", key))
	}
	for _, w := range l.workers {
		w.offer(cfg)
	}
	l.applied = commit
	l.state.valid(commit, true)
}

// maxIgnored bounds the keys that are remembered as logged; some of them hold list indexes.
const maxIgnored = 100
