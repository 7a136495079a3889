package gitaly

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	bulkTimeout = 2 * time.Minute
	// bulkFiles is how many files one call asks for: enough to make the processes that a call costs cheap per file, few enough
	// that a call that breaks off loses little.
	bulkFiles = 250
)

// Blobs reads regular files of a commit: those with an id as they were listed, those without one by their path. each gets every file
// once with its id, in the order of entries unless a server lags behind; its error stops the reading and is returned as it is. The
// faults: NotFound if the commit has no such file, FailedPrecondition if one has more than limit bytes or is no regular file, which
// the user can mend; Unavailable if they cannot be read now.
func (c *Client) Blobs(ctx context.Context, p backend.Project, commit string, entries []backend.Entry, limit int64, each func(backend.Entry, []byte) error) error {
	o, err := c.operation(p)
	switch {
	case err != nil:
		return err
	case !objectID.MatchString(commit):
		return fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not a commit id", p.Path, commit)
	case limit <= 0:
		return fault.New(fault.InvalidArgument, fault.Git, "project %q: the limit on files must be positive", p.Path)
	}
	for _, e := range entries {
		if e.Path == "" || strings.ContainsRune(e.Path, 0) || strings.HasSuffix(e.Path, "/") {
			return fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not the path of a file", p.Path, e.Path)
		}
	}
	o.session = c.memory.session(o.key())
	b := &bulk{operation: o, commit: commit, limit: limit, each: each}
	if err := b.read(ctx, entries); err != nil || len(b.missing) == 0 {
		return err
	}
	return b.again(ctx)
}

// bulk is many files to read.
type bulk struct {
	*operation
	commit string
	limit  int64
	each   func(backend.Entry, []byte) error
	// missing are the files that the server did not find.
	missing []backend.Entry
}

// again asks for what is missing where nothing is behind. Only if the commit is there can a file be missing in it.
func (b *bulk) again(ctx context.Context) error {
	b.primary = true
	known, err := b.findCommit(ctx, b.commit)
	if err != nil {
		return err
	}
	if known == "" {
		return b.unavailable("commit " + b.commit + " is not there")
	}
	entries := b.missing
	b.missing = nil
	if err := b.read(ctx, entries); err != nil || len(b.missing) == 0 {
		return err
	}
	first := b.missing[0]
	if first.ID != "" {
		return b.unavailable("file " + first.Path + " was listed and is not there")
	}
	return fault.New(fault.NotFound, fault.Git, "project %q: no such file: %s at commit %s", b.project, first.Path, b.commit)
}

func (b *bulk) read(ctx context.Context, entries []backend.Entry) error {
	for some := range slices.Chunk(entries, bulkFiles) {
		known := b.c.memory.knows(b.address, getBlobsMethod)
		var err error
		if known {
			known, err = b.batch(ctx, some)
		}
		if !known && err == nil {
			err = b.single(ctx, some)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// single reads files one by one, from a server that knows nothing better.
func (b *bulk) single(ctx context.Context, entries []backend.Entry) error {
	for _, e := range entries {
		f := &file{operation: b.operation, commit: b.commit, path: e.Path, limit: b.limit}
		data, ok, err := f.read(ctx)
		if err != nil {
			return err
		}
		if !ok {
			b.missing = append(b.missing, e)
			continue
		}
		if err := b.give(e, f.oid, data); err != nil {
			return err
		}
	}
	return nil
}

// give passes a file on.
func (b *bulk) give(e backend.Entry, oid string, data []byte) error {
	if e.ID != "" && e.ID != oid {
		return b.unavailable(protocolError("a file is another one than was listed").Error())
	}
	e.ID, e.File = oid, true
	return b.each(e, data)
}

// batch reads files with one call; known: the server knows it.
func (b *bulk) batch(ctx context.Context, entries []backend.Entry) (known bool, err error) {
	request := &gitalypb.GetBlobsRequest{Repository: b.repository, Limit: b.limit + 1} // one more than may be, to see that there is more
	for _, e := range entries {
		request.RevisionPaths = append(request.RevisionPaths, &gitalypb.GetBlobsRequest_RevisionPath{Revision: b.commit, Path: []byte(e.Path)})
	}
	known = true
	var stopped error
	err = b.call(ctx, bulkTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		stream, err := gitalypb.NewBlobServiceClient(cc).GetBlobs(ctx, request)
		if err != nil {
			return err
		}
		items := &items{bulk: b, expected: entries}
		for {
			piece, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				stopped = items.end()
				return nil
			case err == nil:
				if stopped = items.message(piece); stopped != nil {
					return nil
				}
			case !items.begun && isUnknownMethod(err):
				known = false
				b.c.memory.setUnknown(b.address, getBlobsMethod)
				return nil
			case items.begun: // files must not be given twice
				return b.judge(ctx, err)
			default:
				return err
			}
		}
	})
	if stopped != nil {
		return known, stopped
	}
	return known, err
}

// items puts the messages of one answer together.
type items struct {
	*bulk
	// expected are the files of which nothing has come yet.
	expected []backend.Entry
	begun    bool
	// open: the content of entry, size bytes, is still coming.
	open  bool
	entry backend.Entry
	oid   string
	size  int64
	data  []byte
}

func (i *items) message(m *gitalypb.GetBlobsResponse) error {
	i.begun = true
	if len(m.GetPath()) == 0 && m.GetRevision() == "" {
		if !i.open {
			return i.broken("data of no file")
		}
		return i.more(m.GetData())
	}
	if i.open {
		return i.broken("a file has another size than announced")
	}
	if len(i.expected) == 0 || string(m.GetPath()) != i.expected[0].Path {
		return i.broken("a file that was not asked for")
	}
	i.entry, i.expected = i.expected[0], i.expected[1:]
	if m.GetOid() == "" {
		i.missing = append(i.missing, i.entry)
		return nil
	}
	if m.GetType() != gitalypb.ObjectType_BLOB || m.GetMode()&modeType != modeRegular {
		return i.notRegular(i.entry.Path, m.GetMode())
	}
	if m.GetSize() < 0 || !objectID.MatchString(m.GetOid()) {
		return i.broken("a file has no size or no object id")
	}
	if m.GetSize() > i.limit {
		return i.tooBig(i.entry.Path, m.GetSize(), i.limit)
	}
	i.open, i.oid, i.size, i.data = true, m.GetOid(), m.GetSize(), make([]byte, 0, m.GetSize())
	return i.more(m.GetData())
}

func (i *items) more(data []byte) error {
	if int64(len(i.data)+len(data)) > i.size {
		return i.broken("a file has another size than announced")
	}
	i.data = append(i.data, data...)
	if int64(len(i.data)) < i.size {
		return nil
	}
	i.open = false
	return i.give(i.entry, i.oid, i.data)
}

// end is called when no more messages come.
func (i *items) end() error {
	if i.open || len(i.expected) > 0 {
		return i.broken("files are missing in the answer")
	}
	return nil
}

func (i *items) broken(what string) error { return i.unavailable(protocolError(what).Error()) }
