package railsapi

import (
	"cmp"
	"context"
	"slices"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/agenttracker/rpc"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/version"
)

// maxIDs bounds the agents or projects of one question. Rails asks for those of a page.
const maxIDs = 10_000

// Agents knows the connected agents. What it returns is shared and not changed.
type Agents interface {
	AgentsByID(ctx context.Context, agentIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error)
	AgentsByProject(ctx context.Context, projectIDs ...int64) ([]*agenttracker.ConnectedAgentInfo, error)
	CountByVersion(ctx context.Context) (map[string]int64, error)
}

// tracker is AgentTracker in all its generations. Ids that are not known have no connections, which is no error.
type tracker struct {
	rpc.UnimplementedAgentTrackerServer

	agents Agents
}

// list finds connections, in an order that does not change from call to call, with the warnings about them.
func list(
	ctx context.Context, find func(context.Context, ...int64) ([]*agenttracker.ConnectedAgentInfo, error), ids ...int64,
) ([]*agenttracker.ConnectedAgentInfo, error) {
	if len(ids) > maxIDs {
		return nil, fault.New(fault.InvalidArgument, fault.GitLab, "at most %d ids may be asked for at a time", maxIDs)
	}
	found, err := find(ctx, ids...)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, fault.Kas, err, "Failed to get connected agents")
	}
	found = slices.Clone(found)
	slices.SortFunc(found, func(a, b *agenttracker.ConnectedAgentInfo) int {
		return cmp.Or(cmp.Compare(a.AgentId, b.AgentId), cmp.Compare(a.ConnectionId, b.ConnectionId))
	})
	return withWarnings(found, version.Version), nil
}

// GetConnectedAgents implements the call of GitLab up to 16.11.
func (t *tracker) GetConnectedAgents(ctx context.Context, req *rpc.GetConnectedAgentsRequest) (*rpc.GetConnectedAgentsResponse, error) {
	find, id := t.agents.AgentsByID, req.GetAgentId()
	if project, ok := req.Request.(*rpc.GetConnectedAgentsRequest_ProjectId); ok {
		find, id = t.agents.AgentsByProject, project.ProjectId
	}
	agents, err := list(ctx, find, id)
	if err != nil {
		return nil, err
	}
	return &rpc.GetConnectedAgentsResponse{Agents: agents}, nil
}

// GetConnectedAgentsByProjectIDs implements the call of 16.8 and later.
func (t *tracker) GetConnectedAgentsByProjectIDs(
	ctx context.Context, req *rpc.GetConnectedAgentsByProjectIDsRequest,
) (*rpc.GetConnectedAgentsByProjectIDsResponse, error) {
	agents, err := list(ctx, t.agents.AgentsByProject, req.ProjectIds...)
	if err != nil {
		return nil, err
	}
	return &rpc.GetConnectedAgentsByProjectIDsResponse{Agents: agents}, nil
}

// GetConnectedAgentsByAgentIDs implements the call of 16.8 and later.
func (t *tracker) GetConnectedAgentsByAgentIDs(
	ctx context.Context, req *rpc.GetConnectedAgentsByAgentIDsRequest,
) (*rpc.GetConnectedAgentsByAgentIDsResponse, error) {
	agents, err := list(ctx, t.agents.AgentsByID, req.AgentIds...)
	if err != nil {
		return nil, err
	}
	return &rpc.GetConnectedAgentsByAgentIDsResponse{Agents: agents}, nil
}

// GetConnectedAgentsByProjectIds is the spelling of 16.7.
func (t *tracker) GetConnectedAgentsByProjectIds(
	ctx context.Context, req *rpc.GetConnectedAgentsByProjectIDsRequest,
) (*rpc.GetConnectedAgentsByProjectIDsResponse, error) {
	return t.GetConnectedAgentsByProjectIDs(ctx, req)
}

// GetConnectedAgentsByAgentIds is the spelling of 16.7.
func (t *tracker) GetConnectedAgentsByAgentIds(
	ctx context.Context, req *rpc.GetConnectedAgentsByAgentIDsRequest,
) (*rpc.GetConnectedAgentsByAgentIDsResponse, error) {
	return t.GetConnectedAgentsByAgentIDs(ctx, req)
}

// GetConnectedAgentksByProjectIDs implements the newest spelling.
func (t *tracker) GetConnectedAgentksByProjectIDs(
	ctx context.Context, req *rpc.GetConnectedAgentksByProjectIDsRequest,
) (*rpc.GetConnectedAgentksByProjectIDsResponse, error) {
	agents, err := list(ctx, t.agents.AgentsByProject, req.ProjectIds...)
	if err != nil {
		return nil, err
	}
	return &rpc.GetConnectedAgentksByProjectIDsResponse{Agents: agents}, nil
}

// GetConnectedAgentksByAgentIDs implements the newest spelling.
func (t *tracker) GetConnectedAgentksByAgentIDs(
	ctx context.Context, req *rpc.GetConnectedAgentksByAgentIDsRequest,
) (*rpc.GetConnectedAgentksByAgentIDsResponse, error) {
	agents, err := list(ctx, t.agents.AgentsByID, req.AgentIds...)
	if err != nil {
		return nil, err
	}
	return &rpc.GetConnectedAgentksByAgentIDsResponse{Agents: agents}, nil
}

// CountAgentsByAgentVersions implements the call of 16.11 and later.
func (t *tracker) CountAgentsByAgentVersions(
	ctx context.Context, _ *rpc.CountAgentsByAgentVersionsRequest,
) (*rpc.CountAgentsByAgentVersionsResponse, error) {
	counts, err := t.agents.CountByVersion(ctx)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, fault.Kas, err, "Failed to count agents")
	}
	return &rpc.CountAgentsByAgentVersionsResponse{AgentVersions: counts}, nil
}
