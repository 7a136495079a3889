package railsapi

import (
	"context"
	"strings"

	"gitlab.com/agentk/agentk/api/configurationproject"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const branchPrefix = "refs/heads/"

// ConfigFile is the configuration file of an agent.
type ConfigFile struct {
	// Path inside the repository.
	Path string
	// Agent is the agent's name.
	Agent string
}

// ConfigFiles finds the agents that a repository configures. Faults: NotFound means that the branch or folder does not exist,
// InvalidArgument that the repository's server understood the question and refuses it.
type ConfigFiles interface {
	AgentConfigFiles(ctx context.Context, p backend.Project) ([]ConfigFile, error)
}

// configurationProject is ConfigurationProject.
type configurationProject struct {
	configurationproject.UnimplementedConfigurationProjectServer

	files ConfigFiles
}

// ListAgentConfigFiles implements the service.
func (c *configurationProject) ListAgentConfigFiles(
	ctx context.Context, req *configurationproject.ListAgentConfigFilesRequest,
) (*configurationproject.ListAgentConfigFilesResponse, error) {
	branch := strings.TrimPrefix(req.DefaultBranch, branchPrefix)
	if branch == "" && req.DefaultBranch != "" {
		return nil, fault.New(fault.InvalidArgument, fault.GitLab, "default_branch names no branch")
	}
	files, err := c.files.AgentConfigFiles(ctx, backend.Project{
		Path: req.Repository.GlProjectPath, DefaultBranch: branch, Gitaly: req.GitalyInfo, Repository: req.Repository,
	})
	if err != nil {
		switch kind := fault.KindOf(err); kind {
		case fault.NotFound:
			return &configurationproject.ListAgentConfigFilesResponse{}, nil
		case fault.InvalidArgument, fault.Canceled, fault.DeadlineExceeded:
			return nil, fault.Wrap(kind, fault.Git, err, "list agent configuration files")
		default:
			return nil, fault.Wrap(fault.Unavailable, fault.Git, err, "list agent configuration files")
		}
	}
	resp := &configurationproject.ListAgentConfigFilesResponse{}
	for _, f := range files {
		resp.ConfigFiles = append(resp.ConfigFiles, &configurationproject.AgentConfigFile{Name: f.Path, AgentName: f.Agent})
	}
	return resp, nil
}
