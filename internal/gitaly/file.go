package gitaly

import (
	"context"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	modeType    = 0o170000
	modeRegular = 0o100000
	modeLink    = 0o120000

	modeFolder    = 0o040000
	modeSubmodule = 0o160000
)

// File is the content of a regular file of a commit, which is given by its full id. The faults: NotFound if the commit has no such
// file; FailedPrecondition if it has more than limit bytes or is no regular file, which the user can mend; Unavailable if it cannot
// be read now.
func (c *Client) File(ctx context.Context, p backend.Project, commit, path string, limit int64) ([]byte, error) {
	o, err := c.operation(p)
	switch {
	case err != nil:
		return nil, err
	case !objectID.MatchString(commit):
		return nil, fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not a commit id", p.Path, commit)
	case path == "" || strings.ContainsRune(path, 0):
		return nil, fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not the path of a file", p.Path, path)
	case limit <= 0: // on the wire 0 would mean any size
		return nil, fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s is too big: no more bytes are allowed", p.Path, path)
	}
	o.session = c.memory.session(o.key())
	f := &file{operation: o, commit: commit, path: path, limit: limit}
	data, ok, err := f.read(ctx)
	if err != nil || ok {
		return data, err
	}
	return f.again(ctx)
}

// file is one file to read.
type file struct {
	*operation
	commit, path string
	limit        int64
	// oid is the id of the content, once read.
	oid string
}

// again asks where nothing is behind. Only if the commit is there can a file be missing in it.
func (f *file) again(ctx context.Context) ([]byte, error) {
	f.primary = true
	known, err := f.findCommit(ctx, f.commit)
	if err != nil {
		return nil, err
	}
	if known == "" {
		return nil, f.unavailable("commit " + f.commit + " is not there")
	}
	data, ok, err := f.read(ctx)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.New(fault.NotFound, fault.Git, "project %q: no such file: %s at commit %s", f.project, f.path, f.commit)
	}
	return data, nil
}

// read returns the content, or false if the server knows no such commit or file.
func (f *file) read(ctx context.Context) (data []byte, ok bool, err error) {
	err = f.call(ctx, fileTimeout, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		data, ok = nil, false
		stream, err := gitalypb.NewCommitServiceClient(cc).TreeEntry(ctx, &gitalypb.TreeEntryRequest{
			Repository: f.repository, Revision: []byte(f.commit), Path: []byte(f.path), MaxSize: f.limit,
		})
		if err != nil {
			return err
		}
		first, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return protocolError("no answer to the question for a file")
		case isMissingEntry(err, f.path):
			return nil
		case isTooBig(err):
			return f.tooBig(largerNumber(status.Convert(err).Message(), f.limit))
		case err != nil:
			return err
		case first.GetOid() == "": // how servers up to 13.12 say that there is none
			return nil
		}
		if err := f.check(first); err != nil {
			return err
		}
		ok, f.oid = true, first.GetOid()
		data, err = f.receive(first, stream)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return data, ok, nil
}

// check looks at the first message, the only one that describes the file.
func (f *file) check(first *gitalypb.TreeEntryResponse) error {
	if first.GetType() != gitalypb.TreeEntryResponse_BLOB || first.GetMode()&modeType != modeRegular {
		return f.notRegular(f.path, first.GetMode())
	}
	if first.GetSize() < 0 {
		return protocolError("a file has a negative size")
	}
	if first.GetSize() > f.limit {
		return f.tooBig(first.GetSize())
	}
	return nil
}

// notRegular is the user's to mend.
func (o *operation) notRegular(path string, mode int32) error {
	return fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s is not a regular file: it is a %s", o.project, path, kindOf(mode))
}

func kindOf(mode int32) string {
	switch mode & modeType {
	case modeFolder:
		return "folder"
	case modeSubmodule:
		return "submodule"
	case modeLink:
		return "symbolic link"
	default:
		return "thing of mode " + strconv.FormatInt(int64(mode), 8)
	}
}

// receive joins the pieces and counts them itself: servers before 13.6 know no limit.
func (f *file) receive(first *gitalypb.TreeEntryResponse, stream grpc.ServerStreamingClient[gitalypb.TreeEntryResponse]) ([]byte, error) {
	data := append(make([]byte, 0, first.GetSize()), first.GetData()...)
	for int64(len(data)) <= first.GetSize() {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		data = append(data, piece.GetData()...)
	}
	if int64(len(data)) != first.GetSize() {
		return nil, protocolError("a file has another size than announced")
	}
	return data, nil
}

func (f *file) tooBig(size int64) error { return f.operation.tooBig(f.path, size, f.limit) }

// tooBig is the user's to mend. size is 0 if it is not known.
func (o *operation) tooBig(path string, size, limit int64) error {
	if size == 0 {
		return fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s is too big: at most %d bytes are allowed", o.project, path, limit)
	}
	return fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s is too big: %d bytes, at most %d are allowed", o.project, path, size, limit)
}

// isTooBig recognizes the refusal of a file that is larger than asked for. A damaged repository has the same code.
func isTooBig(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.FailedPrecondition && !strings.Contains(st.Message(), "repository not valid")
}

var number = regexp.MustCompile(`[0-9]+`)

// largerNumber finds the size of a file in a text that names it beside the limit; 0 if it is not there.
func largerNumber(text string, limit int64) int64 {
	for _, digits := range number.FindAllString(text, -1) {
		n, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && n > limit && n < math.MaxInt64 {
			return n
		}
	}
	return 0
}
