package standalone

import (
	"context"
	"errors"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// maxTags is how many annotated tags may follow each other from a ref to its commit.
const maxTags = 5

// Resolve is the commit that a ref means, a tag's commit if it is annotated; "" in an empty repository. For the default branch it
// is Head. Faults: NotFound if the project, its repository, the ref or the commit does not exist, Unavailable if it cannot be read
// now.
func (b *Backend) Resolve(ctx context.Context, p backend.Project, ref backend.Ref) (string, error) {
	if ref == (backend.Ref{}) {
		return b.Head(ctx, p)
	}
	sec := b.section.Load()
	known, err := sec.project(p.Path)
	if err != nil {
		return "", err
	}
	commit := ""
	err = b.repos.use(ctx, sec.root(), known.path, func(repo *repository) error {
		var err error
		commit, err = repo.resolve(ref)
		return err
	})
	if err != nil {
		return "", err
	}
	return commit, nil
}

func (r *repository) resolve(ref backend.Ref) (string, error) {
	if ref.Commit != "" {
		return r.known(ref)
	}
	name := plumbing.NewBranchReferenceName(ref.Branch)
	if ref.Tag != "" {
		name = plumbing.NewTagReferenceName(ref.Tag)
	}
	if err := name.Validate(); err != nil || !name.IsSafe() {
		return "", r.none(ref)
	}
	commit, err := r.commit(name)
	if err != nil && fault.KindOf(err) == fault.NotFound {
		return "", r.none(ref)
	}
	if err != nil || ref.Tag == "" || commit == "" {
		return commit, err
	}
	return r.peel(ref, plumbing.NewHash(commit))
}

func (r *repository) none(ref backend.Ref) error {
	return fault.New(fault.NotFound, fault.Git, "project %q has no %s", r.project, ref)
}

// known makes sure that a commit is there.
func (r *repository) known(ref backend.Ref) (string, error) {
	if !isCommitID(ref.Commit) {
		return "", fault.New(fault.NotFound, fault.Git, "project %q has no commit %.100q: a full commit id is needed", r.project, ref.Commit)
	}
	return r.peel(ref, plumbing.NewHash(ref.Commit))
}

// peel follows annotated tags to their commit.
func (r *repository) peel(ref backend.Ref, id plumbing.Hash) (string, error) {
	for range maxTags {
		objects, _, err := r.bounded(id, maxCommitBytes)
		if errors.Is(err, plumbing.ErrObjectNotFound) && ref.Commit == id.String() {
			return "", r.none(ref)
		}
		if err != nil {
			return "", r.unreadable(ref.String(), err)
		}
		encoded, err := objects.EncodedObject(plumbing.AnyObject, id)
		if err != nil {
			return "", r.unreadable(ref.String(), err)
		}
		switch encoded.Type() {
		case plumbing.CommitObject:
			return id.String(), nil
		case plumbing.TagObject:
			tag, err := object.DecodeTag(objects, encoded)
			if err != nil {
				return "", r.unreadable(ref.String(), err)
			}
			id = tag.Target
		default:
			return "", fault.New(fault.NotFound, fault.Git, "project %q: %s is no commit but a %s", r.project, ref, encoded.Type())
		}
	}
	return "", r.unreadable(ref.String(), errors.New("too many tags of tags"))
}
