package gitaly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// GetBlobs reads many files at once. Of a file that is cut, only what is wanted is read.
func (s *Server) GetBlobs(request *gitaly.GetBlobsRequest, stream gitaly.BlobService_GetBlobsServer) error {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return err
	}
	if len(request.GetRevisionPaths()) == 0 {
		return status.Error(codes.InvalidArgument, "empty RevisionPaths")
	}
	for _, rp := range request.GetRevisionPaths() {
		if err := checkRevision([]byte(rp.GetRevision())); err != nil {
			return err
		}
	}
	r := &blobReader{Server: s, dir: dir, limit: request.GetLimit(), stream: stream, folders: map[string]map[string]item{}}
	defer r.close()
	for _, rp := range request.GetRevisionPaths() {
		if err := r.send(stream.Context(), rp.GetRevision(), strings.TrimSuffix(string(rp.GetPath()), "/")); err != nil {
			return err
		}
	}
	return nil
}

// blobReader answers one call with few processes: one for each folder, one for all contents, and one for each file that is cut.
type blobReader struct {
	*Server
	dir    string
	limit  int64
	stream gitaly.BlobService_GetBlobsServer
	// folders has what is in them by revision and path; nil is no folder.
	folders map[string]map[string]item
	// batch is git's "cat-file --batch", once needed.
	batch *catFile
}

func (r *blobReader) send(ctx context.Context, revision, path string) error {
	first := &gitaly.GetBlobsResponse{Revision: revision, Path: []byte(path)}
	found, ok, err := r.lookUp(ctx, revision, path)
	switch {
	case err != nil:
		return err
	case !ok:
		return r.stream.Send(first)
	}
	first.Oid, first.Mode, first.Size = found.oid, found.mode, found.size
	switch found.kind {
	case "tree":
		first.Type = gitaly.ObjectType_TREE
		return r.stream.Send(first)
	case "commit":
		first.Type, first.IsSubmodule = gitaly.ObjectType_COMMIT, true
		return r.stream.Send(first)
	}
	first.Type = gitaly.ObjectType_BLOB
	content, err := r.content(ctx, found)
	if err != nil {
		return r.internal(err)
	}
	if len(content) == 0 {
		return r.stream.Send(first)
	}
	next := first
	return r.pieces(content, func(piece []byte) error {
		next.Data = piece
		err := r.stream.Send(next)
		next = &gitaly.GetBlobsResponse{}
		return err
	})
}

// lookUp finds an entry; each folder is listed once.
func (r *blobReader) lookUp(ctx context.Context, revision, path string) (item, bool, error) {
	if !plainPath(path) {
		return item{}, false, nil
	}
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	key := revision + ":" + parent
	entries, known := r.folders[key]
	if !known {
		items, err := r.list(ctx, r.dir, key, false)
		if err != nil && !errors.Is(err, errMissing) {
			return item{}, false, err
		}
		entries = map[string]item{}
		for _, i := range items {
			entries[i.path] = i
		}
		r.folders[key] = entries
	}
	found, ok := entries[name]
	return found, ok, nil
}

// content is what is wanted of a file.
func (r *blobReader) content(ctx context.Context, blob item) ([]byte, error) {
	switch {
	case r.limit == 0 || blob.size == 0:
		return nil, nil
	case r.limit > 0 && blob.size > r.limit:
		return r.head(ctx, blob.oid, r.limit)
	case r.batch == nil:
		var err error
		if r.batch, err = newCatFile(r.command(ctx, r.dir, "cat-file", "--batch")); err != nil {
			return nil, err
		}
	}
	return r.batch.read(blob)
}

// head is the beginning of a blob.
func (r *blobReader) head(ctx context.Context, oid string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := r.command(ctx, r.dir, "cat-file", "blob", oid)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	content := make([]byte, limit)
	_, err = io.ReadFull(out, content)
	cancel()
	_ = cmd.Wait() // it was killed
	return content, err
}

func (r *blobReader) close() {
	if r.batch != nil {
		r.batch.close()
	}
}

// catFile is a running "git cat-file --batch".
type catFile struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
}

func newCatFile(cmd *exec.Cmd) (*catFile, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &catFile{cmd: cmd, in: in, out: out}, cmd.Start()
}

func (c *catFile) read(blob item) ([]byte, error) {
	if _, err := fmt.Fprintln(c.in, blob.oid); err != nil {
		return nil, err
	}
	answer := fmt.Sprintf("%s blob %d\n", blob.oid, blob.size)
	all := make([]byte, int64(len(answer))+blob.size+1)
	if _, err := io.ReadFull(c.out, all[:len(answer)]); err != nil {
		return nil, err
	}
	if got := string(all[:len(answer)]); got != answer {
		return nil, fmt.Errorf("git cat-file printed %q", got)
	}
	if _, err := io.ReadFull(c.out, all[len(answer):]); err != nil {
		return nil, err
	}
	return all[len(answer) : len(all)-1], nil
}

func (c *catFile) close() {
	_ = c.in.Close()
	_, _ = io.Copy(io.Discard, c.out)
	_ = c.cmd.Wait() // whatever it says, all answers were whole
}
