package gitaly

import (
	"context"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// Resolve is the commit that a ref means, a tag's commit if it is annotated; "" in an empty repository. For the default branch it
// is Head. The fault NotFound says that the repository has no such ref or commit; Unavailable that it cannot be read now.
func (c *Client) Resolve(ctx context.Context, p backend.Project, ref backend.Ref) (string, error) {
	if ref == (backend.Ref{}) {
		return c.Head(ctx, p)
	}
	o, err := c.operation(p)
	if err != nil {
		return "", err
	}
	if ref.Commit != "" {
		return o.known(ctx, ref.Commit)
	}
	name, full := ref.Branch, branchPrefix+ref.Branch
	if ref.Tag != "" {
		name, full = ref.Tag, tagPrefix+ref.Tag
	}
	if !validName(name) {
		return "", fault.New(fault.NotFound, fault.Git, "project %q has no %s: not a valid name", p.Path, ref)
	}
	a, err := o.where(ctx, full)
	if err != nil {
		return "", err
	}
	if a.state == missing {
		return "", fault.New(fault.NotFound, fault.Git, "project %q has no %s", p.Path, ref)
	}
	return a.commit, nil
}

// known makes sure that a commit is there, if need be by asking where nothing is behind.
func (o *operation) known(ctx context.Context, id string) (string, error) {
	if !objectID.MatchString(id) {
		return "", fault.New(fault.NotFound, fault.Git, "project %q has no commit %.100q: a full commit id is needed", o.project, id)
	}
	for _, primary := range []bool{false, true} {
		o.primary = primary
		commit, err := o.findCommit(ctx, id)
		if commit != "" || err != nil {
			return commit, err
		}
	}
	return "", fault.New(fault.NotFound, fault.Git, "project %q has no commit %s", o.project, id)
}
