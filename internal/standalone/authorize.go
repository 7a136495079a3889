package standalone

import (
	"context"
	"strings"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// visibilityPublic is the visibility of projects that every agent may read.
const visibilityPublic = "public"

// Project is a project that an agent may read: its configuration project, a public one, and those that the section names for it.
// Any other is a fault of kind NotFound, in the same words and without a look at any repository, whether it exists or not.
func (b *Backend) Project(_ context.Context, agentToken string, agent backend.Agent, id string) (backend.Project, error) {
	sec := b.section.Load()
	a := sec.agentsByToken[sumToken(agentToken)]
	p := sec.projects[strings.ToLower(id)]
	if a == nil || a.id != agent.ID || p == nil || !a.mayRead(p) {
		return backend.Project{}, fault.New(fault.NotFound, fault.Kas, "project not found")
	}
	return p.value(), nil
}

func (a *agent) mayRead(p *project) bool { return p == a.project || p.public || a.reads[p] }
