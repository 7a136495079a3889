package standalone

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// maxListed and maxPath bound the work that one listing makes; the latter is in bytes.
	maxListed = 100_000
	maxPath   = 4096
)

// List visits what is in a folder of a commit, in git's order; dir is "" for the root. deep: in all folders below, too. It stops
// with the visitor's error, which is returned as it is. Faults: NotFound if the commit has no such folder, FailedPrecondition if
// there is too much in it, Unavailable if it cannot be read now.
func (b *Backend) List(ctx context.Context, p backend.Project, commit, dir string, deep bool, visit func(backend.Entry) error) error {
	w := &walk{ctx: ctx, deep: deep, visit: visit}
	return b.bulk(ctx, p, commit, func(repo *repository) (bool, error) {
		w.repo = repo
		err := w.start(commit, dir)
		return w.seen > 0, err
	})
}

// Blobs reads regular files of a commit, those with an id as they were listed, those without one by their path. each gets every
// file with its id, in the order of entries; its error stops the reading and is returned as it is. Faults: NotFound if the commit
// has no such file, FailedPrecondition if one has more than limit bytes or is no regular file, Unavailable if it cannot be read now.
func (b *Backend) Blobs(ctx context.Context, p backend.Project, commit string, entries []backend.Entry, limit int64, each func(backend.Entry, []byte) error) error {
	return b.bulk(ctx, p, commit, func(repo *repository) (bool, error) {
		for len(entries) > 0 {
			e, data, err := repo.listed(ctx, commit, entries[0], limit)
			if err != nil {
				return false, err // what was given is not asked for again
			}
			if err := each(e, data); err != nil {
				return true, err
			}
			entries = entries[1:]
		}
		return true, nil
	})
}

// bulk runs read on a repository, and once more if git rewrites the repository meanwhile, unless read says that it is too late for
// that.
func (b *Backend) bulk(ctx context.Context, p backend.Project, commit string, read func(*repository) (final bool, err error)) error {
	sec := b.section.Load()
	known, err := sec.project(p.Path)
	if err != nil {
		return fault.Wrap(fault.Unavailable, fault.Git, err, "read commit %s", commit)
	}
	if !isCommitID(commit) {
		return fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not a commit id", p.Path, commit)
	}
	for range readAttempts {
		final, opened := false, false
		err = b.repos.use(ctx, sec.root(), known.path, func(repo *repository) error {
			opened = true
			var err error
			final, err = read(repo)
			return err
		})
		if !opened && fault.KindOf(err) == fault.NotFound {
			// The repository is gone, which is no mistake in a list of files.
			return fault.Wrap(fault.Unavailable, fault.Git, err, "read commit %s", commit)
		}
		if final || fault.KindOf(err) != fault.Unavailable {
			break
		}
	}
	return err
}

// listed reads one file.
func (r *repository) listed(ctx context.Context, commit string, e backend.Entry, limit int64) (backend.Entry, []byte, error) {
	if e.ID == "" {
		found, err := r.find(ctx, plumbing.NewHash(commit), e.Path)
		if err != nil {
			return e, nil, err
		}
		e.ID, e.File = found.Hash.String(), true
	}
	data, err := r.blob(ctx, plumbing.NewHash(e.ID), e.Path, limit)
	return e, data, err
}

// walk is one listing.
type walk struct {
	ctx   context.Context //nolint:containedctx // of the one call that the walk is
	repo  *repository
	deep  bool
	visit func(backend.Entry) error
	seen  int
}

func (w *walk) start(commit, dir string) error {
	tree, err := w.repo.rootTree(plumbing.NewHash(commit))
	if err != nil {
		return err
	}
	if dir == "" {
		return w.tree(tree, "")
	}
	for name := range strings.SplitSeq(dir, "/") {
		entry, err := w.repo.entry(tree, name)
		if err != nil {
			return w.repo.unreadable("folder "+dir, err)
		}
		if entry == nil || entry.Mode != filemode.Dir {
			return fault.New(fault.NotFound, fault.Git, "project %q: no such folder: %s at commit %s", w.repo.project, dir, commit)
		}
		tree = entry.Hash
	}
	return w.tree(tree, dir+"/")
}

func (w *walk) tree(id plumbing.Hash, prefix string) error {
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("list folders of project %q: %w", w.repo.project, err)
	}
	tree, _, err := w.repo.tree(id)
	if err != nil {
		return w.repo.unreadable("folder "+prefix, err)
	}
	for _, e := range tree.Entries {
		if w.seen++; w.seen > maxListed {
			return fault.New(fault.FailedPrecondition, fault.Git, "project %q: more than %d entries", w.repo.project, maxListed)
		}
		// What git itself would never write must not lead anywhere else at the agent.
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
			return w.repo.unreadable("folder "+prefix, errors.New("damaged object"))
		}
		path := prefix + e.Name
		if len(path) > maxPath {
			return fault.New(fault.FailedPrecondition, fault.Git, "project %q: a path of more than %d bytes: %.100s…", w.repo.project, maxPath, path)
		}
		regular := e.Mode.IsFile() && e.Mode != filemode.Symlink
		if err := w.visit(backend.Entry{Path: path, ID: e.Hash.String(), File: regular}); err != nil {
			return err
		}
		if w.deep && e.Mode == filemode.Dir {
			if err := w.tree(e.Hash, path+"/"); err != nil {
				return err
			}
		}
	}
	return nil
}
