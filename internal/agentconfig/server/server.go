// Package server is the half of the agent configuration that runs in kas: the GetConfiguration stream, on which each agent gets
// its file at once and again whenever the file's branch moves. The user's mistakes end the stream with a status that says what is
// wrong and where; everything else that goes wrong is retried inside the stream, so that an agent does not notice a short outage.
package server

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/internal/aside"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/pushes"
)

// Authenticator knows the agent behind an RPC.
type Authenticator interface {
	// Agent resolves the token of the RPC whose context this is. It is asked on every poll, so that a revoked token ends the
	// stream. Errors are faults.
	Agent(ctx context.Context) (backend.Agent, error)
}

// Repository reads the configuration projects. Errors are faults.
type Repository interface {
	// Head is the newest commit of the default branch, "" in an empty repository. NotFound: the repository or the branch is
	// missing.
	Head(ctx context.Context, p backend.Project) (string, error)
	// File is the content of a file. NotFound: there is none; FailedPrecondition: it is larger than max or not a regular file.
	File(ctx context.Context, p backend.Project, commit, path string, max int64) ([]byte, error)
}

// Pushes tells to which projects was pushed, by full path. The channel ends with ctx, or when events may have been missed.
type Pushes interface {
	Subscribe(ctx context.Context) (<-chan string, error)
}

// Changes tells that anything of the backend has changed: the channel is closed at the next change.
type Changes interface {
	Changed() <-chan struct{}
}

// Registry holds the agents that register by this stream: those older than 16.5, which have no other way.
type Registry interface {
	RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error
	UnregisterAgent(ctx context.Context, agentID, connectionID int64) error
}

// Config configures a Server. All fields are required unless they say otherwise.
type Config struct {
	Auth Authenticator
	// AgeLimit makes of an RPC's context one that also ends when the stream is to end in order and be opened anew: because its
	// connection is old, or because kas stops.
	AgeLimit   func(ctx context.Context) context.Context
	Repository Repository
	Pushes     Pushes
	// Changes may be nil.
	Changes  Changes
	Registry Registry
	// ExternalURL is where users reach GitLab. The agent is told.
	ExternalURL string
	// PollPeriod is how often the branch is looked at when nothing is heard of it.
	PollPeriod time.Duration
	// MaxFileSize is the largest configuration file, in bytes.
	MaxFileSize int64
	// OnConfiguration is told every file that is sent, once per stream; nil means nobody. Its context ends after HookTimeout, and
	// soon after the stream has.
	OnConfiguration func(ctx context.Context, agent backend.Agent, file *agentcfg.ConfigurationFile)
	Log             *zap.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
}

// HookTimeout is how long Config.OnConfiguration may take.
const HookTimeout = 10 * time.Second

// Server is the AgentConfiguration service.
type Server struct {
	agentconfiguration.UnimplementedAgentConfigurationServer

	cfg      Config
	pushes   *pushes.Hub
	refusals *refusals
	results  *prometheus.CounterVec
}

// New returns a Server. Push events are heard while Run is running.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Auth == nil, cfg.AgeLimit == nil, cfg.Repository == nil, cfg.Pushes == nil, cfg.Registry == nil, cfg.Log == nil:
		return nil, errors.New("agent configuration: authenticator, age limit, repository, pushes, registry and log are required")
	case cfg.PollPeriod <= 0, cfg.MaxFileSize <= 0:
		return nil, errors.New("agent configuration: poll period and maximum file size must be positive")
	}
	s := &Server{cfg: cfg, pushes: pushes.NewHub(), refusals: newRefusals()}
	s.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kas_config_pushes_total",
		Help: "Agent configurations by what became of them: sent, rejected because of the user's mistake, or error",
	}, []string{"result"})
	for _, result := range []string{resultSent, resultRejected, resultError} {
		s.results.WithLabelValues(result)
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(s.results); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run passes push events on until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.pushes.Run(ctx, s.cfg.Pushes, s.cfg.Log)
	return nil
}

// GetConfiguration implements the service.
func (s *Server) GetConfiguration(
	req *agentconfiguration.ConfigurationRequest,
	stream grpc.ServerStreamingServer[agentconfiguration.ConfigurationResponse],
) error {
	x := &session{s: s, req: req, stream: stream}
	_ = aside.Do(x.begin) // it never fails
	defer x.end()
	return x.run()
}
