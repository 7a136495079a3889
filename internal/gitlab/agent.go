package gitlab

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	internalAPI = "/api/v4/internal/kubernetes/"
	// agentInfoPath is where GitLab says who an agent is, newAgentInfoPath where it will once it has agents of several kinds only.
	agentInfoPath    = internalAPI + "agent_info"
	newAgentInfoPath = "/api/v4/internal/agents/agentk/agent_info"
)

// AgentByToken says which agent a token stands for. GitLab takes the call for a sign of life of the agent. The faults
// Unauthenticated, PermissionDenied and NotFound are GitLab's refusals; Unavailable says that there is no answer now. Their
// gRPC messages are what agents know and hold no cause, which the error's own text has.
func (c *Client) AgentByToken(ctx context.Context, token string) (backend.Agent, error) {
	if token == "" {
		return backend.Agent{}, errToken
	}
	moved := c.infoMoved.Load()
	info, err := c.agentInfo(ctx, token, moved)
	if err != nil && fault.KindOf(err) == fault.NotFound {
		// That of an agent that does not exist, or of a path.
		other, otherErr := c.agentInfo(ctx, token, !moved)
		switch {
		case otherErr == nil:
			c.infoMoved.Store(!moved)
			info, err = other, nil
		case fault.KindOf(otherErr) == fault.Unavailable:
			err = otherErr
		}
	}
	if err != nil {
		return backend.Agent{}, err
	}
	return backend.Agent{
		ID: info.AgentId, Name: info.AgentName,
		Project: project(info.ProjectId, info.DefaultBranch, info.GitalyInfo, info.GitalyRepository),
	}, nil
}

// agentInfo asks at one of the two paths.
func (c *Client) agentInfo(ctx context.Context, token string, moved bool) (*gitlabapi.GetAgentInfoResponse, error) {
	path := agentInfoPath
	if moved {
		path = newAgentInfoPath
	}
	q := &call{endpoint: endpointAgentInfo, method: http.MethodGet, path: c.path(path), agentToken: token, once: true}
	info := &gitlabapi.GetAgentInfoResponse{}
	if err := c.ask(ctx, q, info); err != nil {
		return nil, failAgent(ctx, q, err, "agent not found")
	}
	return info, nil
}

// ProjectInfo describes a project that the agent with this token may read; id is its number or full path. Faults as of
// AgentByToken; NotFound also means that the agent may not read the project.
func (c *Client) ProjectInfo(ctx context.Context, agentToken, id string) (backend.Project, error) {
	q, err := c.aboutProject(endpointProjectInfo, agentToken, id)
	if err != nil {
		return backend.Project{}, err
	}
	info := &gitlabapi.GetProjectInfoResponse{}
	if err := c.ask(ctx, q, info); err != nil {
		return backend.Project{}, failAgent(ctx, q, err, "project not found")
	}
	return project(info.ProjectId, info.DefaultBranch, info.GitalyInfo, info.GitalyRepository), nil
}

// VerifyProjectAccess says whether the agent with this token may see a project; id is its number or full path. A refusal of
// the token is a no as well. An error is a fault of kind Unavailable, or says that ctx ended.
func (c *Client) VerifyProjectAccess(ctx context.Context, agentToken, id string) (bool, error) {
	q, err := c.aboutProject(endpointProjectAccess, agentToken, id)
	if err != nil {
		return false, nil
	}
	err = c.tell(ctx, q)
	if err == nil {
		return true, nil
	}
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Code {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
			return false, nil
		}
	}
	return false, failAgent(ctx, q, err, "project not found")
}

func (c *Client) aboutProject(endpoint, agentToken, id string) (*call, error) {
	if agentToken == "" {
		return nil, errToken
	}
	if id == "" {
		return nil, fault.New(fault.NotFound, fault.Client, "project not found")
	}
	return &call{
		endpoint: endpoint, method: http.MethodGet, path: c.path(internalAPI + endpoint), query: url.Values{"id": {id}}.Encode(),
		agentToken: agentToken, once: true,
	}, nil
}

func project(id int64, branch string, gitaly *entity.GitalyInfo, repository *entity.GitalyRepository) backend.Project {
	return backend.Project{ID: id, Path: repository.GetGlProjectPath(), DefaultBranch: branch, Gitaly: gitaly, Repository: repository}
}
