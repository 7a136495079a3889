package gitaly

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
)

// point asks for one ref, once for all who ask for it at the same time. It costs Gitaly a process or two, however many refs there
// are, and it is never answered from a cache. primary asks where nothing is behind.
func (o *operation) point(ctx context.Context, ref string, primary bool) (answer, error) {
	kind := "any"
	if primary {
		kind = primaryOnly
	}
	a, err := o.c.points.do(ctx, o.flight(ref, kind), func(ctx context.Context, depart func()) (answer, error) {
		return o.with(depart, primary).lookup(ctx, ref)
	})
	return a, o.judge(ctx, err)
}

func (o *operation) lookup(ctx context.Context, ref string) (answer, error) {
	commit, err := o.ref(ctx, ref)
	if err != nil {
		return answer{}, err
	}
	if commit != "" {
		return answer{state: found, commit: commit}, nil
	}
	branch, err := o.defaultBranch(ctx)
	switch {
	case err != nil && ref != headRef && o.hasHead(ctx):
		return answer{state: missing}, nil
	case err != nil:
		return answer{}, err
	case branch == "":
		return answer{state: empty}, nil
	case ref != headRef:
		return answer{state: missing}, nil
	}
	commit, err = o.findCommit(ctx, branch)
	switch {
	case err != nil:
		return answer{}, err
	case commit == "":
		return answer{state: missing}, nil
	}
	return answer{state: found, commit: commit}, nil
}

// hasHead says that HEAD is a commit, so that the repository is not empty. A HEAD that names a commit instead of a branch makes Gitaly
// fail when it is asked for the default branch.
func (o *operation) hasHead(ctx context.Context) bool {
	commit, err := o.findCommit(ctx, headRef)
	return err == nil && commit != ""
}

// ref is the commit of a ref, "" if there is no such ref. ListRefs takes half the work, but only newer servers know it, and for
// HEAD it takes more.
func (o *operation) ref(ctx context.Context, ref string) (string, error) {
	if strings.HasPrefix(ref, branchPrefix) && o.c.memory.knows(o.address, listRefsMethod) {
		commit, known, err := o.listRef(ctx, ref)
		if known || err != nil {
			return commit, err
		}
		o.c.memory.setUnknown(o.address, listRefsMethod)
	}
	return o.findCommit(ctx, ref)
}

// listRef is the commit of a branch, "" if there is no such branch. known: the server knows this call.
func (o *operation) listRef(ctx context.Context, ref string) (commit string, known bool, err error) {
	err = o.call(ctx, lookupTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		commit, known = "", true
		stream, err := gitalypb.NewRefServiceClient(cc).ListRefs(ctx, &gitalypb.ListRefsRequest{
			Repository: o.repository, Patterns: [][]byte{[]byte(ref)},
		})
		if err != nil {
			return err
		}
		for {
			piece, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case isUnknownMethod(err):
				known = false
				return nil
			case err != nil:
				return err
			}
			for _, r := range piece.GetReferences() {
				if string(r.GetName()) != ref { // the pattern also means all refs below it
					continue
				}
				commit = r.GetTarget()
				return checkID(commit)
			}
		}
	})
	return commit, known, err
}

// findCommit is the commit that a revision stands for, "" if there is none.
func (o *operation) findCommit(ctx context.Context, revision string) (string, error) {
	commit := ""
	err := o.call(ctx, lookupTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		res, err := gitalypb.NewCommitServiceClient(cc).FindCommit(ctx, &gitalypb.FindCommitRequest{
			Repository: o.repository, Revision: []byte(revision),
		})
		if err != nil || res.GetCommit() == nil {
			return err
		}
		commit = res.GetCommit().GetId()
		return checkID(commit)
	})
	return commit, err
}

// defaultBranch is the full name of the branch that stands for HEAD, "" if there are no branches.
func (o *operation) defaultBranch(ctx context.Context) (string, error) {
	name := ""
	err := o.call(ctx, lookupTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		res, err := gitalypb.NewRefServiceClient(cc).FindDefaultBranchName(ctx, &gitalypb.FindDefaultBranchNameRequest{
			Repository: o.repository,
		})
		name = string(res.GetName())
		return err
	})
	return name, err
}

func checkID(id string) error {
	if !objectID.MatchString(id) {
		return protocolError("a commit has no object id")
	}
	return nil
}
