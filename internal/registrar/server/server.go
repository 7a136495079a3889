// Package server is the half of the agent registration that runs in kas: it writes down which pods of which agents are connected,
// for GitLab's pages and for the metrics. An entry lives a little longer than the time from one registration to the next.
package server

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// registerPeriod is how often every agent registers, in all its versions.
	registerPeriod = 5 * time.Minute
	// slack is how late a registration may be without the agent seeming to be gone in between.
	slack = 2 * time.Minute
)

// Authenticator knows the agent behind an RPC. Errors are faults.
type Authenticator interface {
	Agent(ctx context.Context) (backend.Agent, error)
}

// Registry holds the connected agents.
type Registry interface {
	RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error
	UnregisterAgent(ctx context.Context, agentID, connectionID int64) error
	AllAgents(ctx context.Context) ([]*agenttracker.ConnectedAgentInfo, error)
}

// Config configures a Server. All fields are required unless they say otherwise.
type Config struct {
	Auth     Authenticator
	Registry Registry
	// Leave is told which pod of which agent is about to stop, so that no request is sent to it any more; nil means nobody.
	Leave func(agentID, podID int64)
	// TTL is how long a registration lasts. Anything under seven minutes is taken as seven: agents register every five, and
	// entries must not come and go meanwhile.
	TTL time.Duration
	Log *zap.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Server is the AgentRegistrar service.
type Server struct {
	agentregistrar.UnimplementedAgentRegistrarServer

	cfg Config
}

// New returns a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Auth == nil || cfg.Registry == nil || cfg.Log == nil {
		return nil, errors.New("agent registrar: authenticator, registry and log are required")
	}
	cfg.TTL = max(cfg.TTL, registerPeriod+slack)
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(newCollector(cfg.Registry, cfg.Log)); err != nil {
			return nil, err
		}
	}
	return &Server{cfg: cfg}, nil
}

// Register implements the service.
func (s *Server) Register(ctx context.Context, req *agentregistrar.RegisterRequest) (*agentregistrar.RegisterResponse, error) {
	if err := checkMeta(req.AgentMeta); err != nil {
		return nil, err
	}
	agent, err := s.cfg.Auth.Agent(ctx)
	if err != nil {
		return nil, err
	}
	err = s.cfg.Registry.RegisterAgent(ctx, &agenttracker.ConnectedAgentInfo{
		AgentMeta:    req.AgentMeta,
		ConnectedAt:  timestamppb.Now(),
		ConnectionId: req.PodId,
		AgentId:      agent.ID,
		ProjectId:    agent.Project.ID,
	}, s.cfg.TTL)
	if err != nil {
		s.cfg.Log.Error("Failed to register agent", zap.Int64("agent_id", agent.ID), zap.Error(err))
		return nil, fault.New(fault.Unavailable, fault.Kas, "Failed to register agent")
	}
	return &agentregistrar.RegisterResponse{}, nil
}

// Unregister implements the service. It is the first thing that a stopping pod does, with requests still running.
func (s *Server) Unregister(ctx context.Context, req *agentregistrar.UnregisterRequest) (*agentregistrar.UnregisterResponse, error) {
	agent, err := s.cfg.Auth.Agent(ctx)
	if err != nil {
		return nil, err
	}
	if s.cfg.Leave != nil {
		s.cfg.Leave(agent.ID, req.PodId)
	}
	err = s.cfg.Registry.UnregisterAgent(ctx, agent.ID, req.PodId)
	if err != nil {
		s.cfg.Log.Error("Failed to unregister agent", zap.Int64("agent_id", agent.ID), zap.Error(err))
		return nil, fault.New(fault.Unavailable, fault.Kas, "Failed to unregister agent")
	}
	return &agentregistrar.UnregisterResponse{}, nil
}
