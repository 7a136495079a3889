package gitaly

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// rootFolder is how Gitaly wants the root of a repository.
const rootFolder = "."

// List visits what is in a folder of a commit, in git's order; dir is "" for the root. deep: in all folders below, too. It stops
// with the visitor's error, which is returned as it is. The faults: NotFound if the commit has no such folder, which the user can
// mend; FailedPrecondition if there is too much in it; Unavailable if it cannot be read now.
func (c *Client) List(ctx context.Context, p backend.Project, commit, dir string, deep bool, visit func(backend.Entry) error) error {
	o, err := c.operation(p)
	switch {
	case err != nil:
		return err
	case !objectID.MatchString(commit):
		return fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not a commit id", p.Path, commit)
	}
	o.session = c.memory.session(o.key())
	l := &listing{operation: o, commit: commit, dir: dir, deep: deep, visit: visit}
	if err := l.read(ctx); err != nil || l.seen > 0 {
		return err
	}
	// An empty answer stands for much: no such folder, no such commit on this node, or nothing in it.
	o.primary = true
	known, err := o.findCommit(ctx, commit)
	if err != nil {
		return err
	}
	if known == "" {
		return o.unavailable("commit " + commit + " is not there")
	}
	if err := l.read(ctx); err != nil || l.seen > 0 || dir == "" {
		return err
	}
	return fault.New(fault.NotFound, fault.Git, "project %q: no such folder, or nothing in it: %s at commit %s", p.Path, dir, commit)
}

// listing is one folder to list.
type listing struct {
	*operation
	commit, dir string
	deep        bool
	visit       func(backend.Entry) error
	seen        int
}

func (l *listing) read(ctx context.Context) error {
	var stopped error
	path := l.dir
	if path == "" {
		path = rootFolder
	}
	err := l.call(ctx, listTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		stream, err := gitalypb.NewCommitServiceClient(cc).GetTreeEntries(ctx, &gitalypb.GetTreeEntriesRequest{
			Repository: l.repository, Revision: []byte(l.commit), Path: []byte(path), Recursive: l.deep, SkipFlatPaths: true,
		})
		if err != nil {
			return err
		}
		for {
			piece, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF), l.seen == 0 && isUnresolved(err):
				return nil
			case err != nil && l.seen > 0: // entries must not be visited twice
				return l.judge(ctx, err)
			case err != nil:
				return err
			}
			if stopped = l.entries(piece.GetEntries()); stopped != nil {
				return nil
			}
		}
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// entries visits one message's entries.
func (l *listing) entries(entries []*gitalypb.TreeEntry) error {
	for _, e := range entries {
		if l.seen++; l.seen > maxEntries {
			return fault.New(fault.FailedPrecondition, fault.Git, "project %q: folder %q has more than %d entries", l.project, l.dir, maxEntries)
		}
		if !objectID.MatchString(e.GetOid()) {
			return l.unavailable(protocolError("an entry has no object id").Error())
		}
		regular := e.GetType() == gitalypb.TreeEntry_BLOB && e.GetMode()&modeType == modeRegular
		if err := l.visit(backend.Entry{Path: string(e.GetPath()), ID: e.GetOid(), File: regular}); err != nil {
			return err
		}
	}
	return nil
}
