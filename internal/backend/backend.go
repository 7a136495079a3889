// Package backend names what kas knows from the world it stands beside: GitLab, or the standalone section of its own file.
// It holds values only; each consumer declares the small port it needs.
package backend

import "gitlab.com/agentk/agentk/api/entity"

// Project is a project of the outside world and where its repository is.
type Project struct {
	ID int64
	// Path is the full path, for example "infra/agents".
	Path string
	// DefaultBranch is a branch name without refs/heads/. Empty: what HEAD of the repository names.
	DefaultBranch string
	// Gitaly and Repository are nil in standalone mode, where the path finds the repository.
	Gitaly     *entity.GitalyInfo
	Repository *entity.GitalyRepository
}

// Agent is what an agent token stands for.
type Agent struct {
	ID   int64
	Name string
	// Project is the configuration project.
	Project Project
}
