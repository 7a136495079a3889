package gitaly

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// advertisementBudget bounds what is read to learn where all refs are: about 3500 of them. For more, asking for one is cheaper.
const advertisementBudget = 256 << 10

// Head is the newest commit of a project's default branch, or of what the repository's HEAD names if the project has none; "" in
// an empty repository. Commits are to be compared for equality only: after a force push, or seen on another replica, the newest is
// not always the later one. The fault NotFound says that the repository has no such branch; Unavailable that it cannot be read now.
func (c *Client) Head(ctx context.Context, p backend.Project) (string, error) {
	o, err := c.operation(p)
	if err != nil {
		return "", err
	}
	ref, ok := defaultRef(p.DefaultBranch)
	if !ok {
		return "", fault.New(fault.NotFound, fault.Git, "project %q has no branch %q: not a valid name", p.Path, p.DefaultBranch)
	}
	a, err := o.where(ctx, ref)
	if err != nil {
		return "", err
	}
	if a.state == missing {
		return "", fault.New(fault.NotFound, fault.Git, "project %q has no ref %s, which is its default branch", p.Path, ref)
	}
	return a.commit, nil
}

// where says where a full ref, or HEAD, points to. What looks like the answer of a replica that lags behind is asked for again.
func (o *operation) where(ctx context.Context, ref string) (answer, error) {
	a, err := o.poll(ctx, ref)
	if err != nil {
		return answer{}, err
	}
	if o.c.memory.doubtful(o.key(), ref, a) {
		second, err := o.point(ctx, ref, true)
		if err != nil {
			return answer{}, err
		}
		// A repository with tags only has no branch, but it is not empty: the first answer stays.
		if a.state != missing || second.state != empty {
			a = second
		}
	}
	o.c.memory.note(o.key(), ref, a)
	return a, nil
}

// defaultRef is the full name of a branch. A name that git would not accept may mean something else where revisions are expected.
func defaultRef(branch string) (string, bool) {
	if branch == "" {
		return headRef, true
	}
	return branchPrefix + branch, validName(branch)
}

// validName says whether git would take a text for the short name of a branch or tag.
func validName(name string) bool {
	bad := name == "" || strings.HasPrefix(name, "-") || strings.HasSuffix(name, ".") || strings.HasSuffix(name, "/") ||
		strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.Contains(name, "//") ||
		strings.ContainsAny(name, " ~^:?*[\\\x7f") ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' })
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	return !bad
}

// poll asks in the cheapest way.
func (o *operation) poll(ctx context.Context, ref string) (answer, error) {
	if o.c.memory.isWide(o.key()) {
		return o.point(ctx, ref, false)
	}
	refs, err := o.c.adverts.do(ctx, o.flight(), func(ctx context.Context, depart func()) (*advertisement, error) {
		return o.with(depart, false).advertisement(ctx)
	})
	if err != nil {
		return answer{}, o.judge(ctx, err)
	}
	if refs.tooLong {
		return o.point(ctx, ref, false)
	}
	return refs.resolve(ref), nil
}

// advertisement asks for all refs. Nothing is concluded before the end: an error may follow good data, and only a complete answer
// is kept in Gitaly's cache.
func (o *operation) advertisement(ctx context.Context) (*advertisement, error) {
	var refs *advertisement
	err := o.call(ctx, pollTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		// The request has nothing but the repository, as the cache wants it.
		stream, err := gitalypb.NewSmartHTTPServiceClient(cc).InfoRefsUploadPack(ctx, &gitalypb.InfoRefsRequest{Repository: o.repository})
		if err != nil {
			return err
		}
		var data strings.Builder
		for {
			piece, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			data.Write(piece.GetData())
			if data.Len() > advertisementBudget {
				o.c.memory.setWide(o.key())
				refs = &advertisement{tooLong: true}
				return nil
			}
		}
		refs, err = parseAdvertisement(data.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return refs, nil
}
