package kas

import (
	"context"
	"errors"
	"time"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/railsapi"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/usage"
)

// connections is the store of connected agents with an eye on what is registered there: GitLab counts registrations, and one
// token in two installations is a mistake that nobody would notice otherwise.
type connections struct {
	store.Agents
	usage *usage.Tracker // nil: nobody counts
	alarm *railsapi.InstallationAlarm
}

// RegisterAgent writes a connection and looks at it.
func (c connections) RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error {
	if err := c.Agents.RegisterAgent(ctx, info, ttl); err != nil {
		return err
	}
	c.usage.Registered(backend.Agent{ID: info.AgentId, Project: backend.Project{ID: info.ProjectId}}, info.AgentMeta)
	c.alarm.Check(ctx, info.AgentId)
	return nil
}

// forget unregisters all pods of an agent whose last token was refused: they would seem connected until their entries expire.
func (c connections) forget(ctx context.Context, agentID int64) error {
	pods, err := c.AgentsByID(ctx, agentID)
	for _, pod := range pods {
		err = errors.Join(err, c.UnregisterAgent(ctx, agentID, pod.ConnectionId))
	}
	return err
}

// proxyUsage counts the requests of Kubernetes clients.
type proxyUsage struct{ tracker *usage.Tracker }

func (u proxyUsage) ProxyRequest(kind string, userID, agentID, configProjectID int64) {
	u.tracker.ProxyRequest(usage.Access(kind), userID, agentID, configProjectID)
}
