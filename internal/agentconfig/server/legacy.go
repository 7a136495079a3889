package server

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backend"
)

const (
	// refreshPeriod and registrationTTL are how often a stream repeats its registration and how long one lasts.
	refreshPeriod   = 4 * time.Minute
	registrationTTL = 7 * time.Minute
	// storeTimeout bounds a call of the registry: registering is less important than the configuration.
	storeTimeout = 5 * time.Second
	// maxMeta is the largest description of itself that an agent is registered with, in bytes.
	maxMeta = 4096
)

// registration is an agent older than 16.5, which is registered as long as its stream lives. For other agents it is inactive.
type registration struct {
	registry Registry
	meta     *entity.AgentMeta
	active   bool
	info     *agenttracker.ConnectedAgentInfo // nil until first resolved
}

// newRegistration finds out how old the agent is: agents from 16.5 on ask not to be registered, those from 18.5 on neither ask
// nor say who they are.
func newRegistration(registry Registry, req *agentconfiguration.ConfigurationRequest) *registration {
	old := !req.SkipRegister && req.AgentMeta != nil
	return &registration{registry: registry, meta: req.AgentMeta, active: old && proto.Size(req.AgentMeta) <= maxMeta}
}

// put registers the agent when it is first known.
func (r *registration) put(ctx context.Context, agent backend.Agent, log *zap.Logger) {
	if !r.active || r.info != nil {
		return
	}
	r.info = &agenttracker.ConnectedAgentInfo{
		AgentMeta:    r.meta,
		ConnectedAt:  timestamppb.Now(),
		ConnectionId: rand.Int64(),
		AgentId:      agent.ID,
		ProjectId:    agent.Project.ID,
	}
	r.refresh(ctx, log)
}

// ticker says when to refresh; it is nil for an agent that is not registered here.
func (r *registration) ticker() *time.Ticker {
	if r.info == nil {
		return nil
	}
	return time.NewTicker(refreshPeriod)
}

func (r *registration) refresh(ctx context.Context, log *zap.Logger) {
	if r.info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := r.registry.RegisterAgent(ctx, r.info, registrationTTL); err != nil {
		log.Warn("Agent was not registered", zap.Error(err))
	}
}

// remove runs when the stream, and so its context, may have ended.
func (r *registration) remove(ctx context.Context, log *zap.Logger) {
	if r.info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := r.registry.UnregisterAgent(ctx, r.info.AgentId, r.info.ConnectionId); err != nil {
		log.Warn("Agent was not unregistered", zap.Error(err))
	}
}
