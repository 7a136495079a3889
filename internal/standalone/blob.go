package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"gitlab.com/agentk/agentk/internal/fault"
)

// Commits and trees are read as a whole, so their size is bounded too. A tree of 8 MiB has more than 100 000 entries.
const (
	maxCommitBytes = 1 << 20
	maxTreeBytes   = 8 << 20
	// readAttempts: a "git gc" may replace packs between opening and reading; the second look sees the new ones.
	readAttempts = 2
)

func (r *repositories) file(ctx context.Context, root, project, commit, path string, limit int64) ([]byte, error) {
	if !isCommitID(commit) {
		return nil, fault.New(fault.InvalidArgument, fault.Git, "project %q: %q is not a commit id", project, commit)
	}
	var data []byte
	var err error
	for range readAttempts {
		err = r.use(ctx, root, project, func(repo *repository) error {
			var err error
			data, err = repo.file(ctx, plumbing.NewHash(commit), path, limit)
			return err
		})
		if fault.KindOf(err) != fault.Unavailable {
			break
		}
	}
	if fault.KindOf(err) == fault.NotFound && !errors.Is(err, errNoSuchFile) {
		// The repository itself is gone: "no such file" would mean an empty configuration.
		return nil, fault.Wrap(fault.Unavailable, fault.Git, err, "read %s", path)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

func isCommitID(s string) bool { return plumbing.IsHash(s) && len(s) == 2*len(plumbing.ZeroHash) }

// errNoSuchFile marks the one NotFound that speaks about the file and not about the repository.
var errNoSuchFile = errors.New("no such file")

func (r *repository) file(ctx context.Context, commit plumbing.Hash, path string, limit int64) ([]byte, error) {
	entry, err := r.find(ctx, commit, path)
	if err != nil {
		return nil, err
	}
	return r.blob(ctx, entry.Hash, path, limit)
}

// blob reads a file's content. Its size is known before anything of it is read.
func (r *repository) blob(ctx context.Context, id plumbing.Hash, path string, limit int64) ([]byte, error) {
	objects, err := r.objects()
	if err != nil {
		return nil, r.unreadable(path, err)
	}
	size, err := objects.EncodedObjectSize(id)
	if err != nil {
		return nil, r.unreadable(path, err)
	}
	if size > limit {
		return nil, fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s is too big: %d bytes, at most %d are allowed",
			r.project, path, size, limit)
	}
	err = ctx.Err()
	if err != nil {
		return nil, fmt.Errorf("read %s of project %q: %w", path, r.project, err)
	}
	blob, err := object.GetBlob(objects, id)
	if err != nil {
		return nil, r.unreadable(path, err)
	}
	reader, err := blob.Reader()
	if err != nil {
		return nil, r.unreadable(path, err)
	}
	defer func() { _ = reader.Close() }()
	data := make([]byte, size)
	_, err = io.ReadFull(reader, data)
	if err != nil {
		return nil, r.unreadable(path, err)
	}
	n, err := io.CopyN(io.Discard, reader, 1)
	if n != 0 || !errors.Is(err, io.EOF) {
		return nil, r.unreadable(path, errors.New("damaged object"))
	}
	return data, nil
}

// find walks the trees from a commit to a regular file.
func (r *repository) find(ctx context.Context, commit plumbing.Hash, path string) (*object.TreeEntry, error) {
	tree, err := r.rootTree(commit)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(path, "/")
	for i, name := range parts {
		err := ctx.Err()
		if err != nil {
			return nil, fmt.Errorf("read %s of project %q: %w", path, r.project, err)
		}
		at := strings.Join(parts[:i+1], "/")
		entry, err := r.entry(tree, name)
		if err != nil {
			return nil, r.unreadable("folder of "+at, err)
		}
		last := i == len(parts)-1
		switch {
		case entry == nil, !last && entry.Mode.IsFile() && entry.Mode != filemode.Symlink:
			return nil, fault.Wrap(fault.NotFound, fault.Git, errNoSuchFile, "project %q: %s at commit %s", r.project, path, commit)
		case entry.Mode == filemode.Dir && !last:
			tree = entry.Hash
		case entry.Mode.IsFile() && entry.Mode != filemode.Symlink:
			return entry, nil
		default:
			return nil, fault.New(fault.FailedPrecondition, fault.Git, "project %q: %s is not a regular file: %s is a %s",
				r.project, path, at, kindOfEntry(entry.Mode))
		}
	}
	return nil, fault.Wrap(fault.NotFound, fault.Git, errNoSuchFile, "project %q: %q", r.project, path)
}

// rootTree is the tree of a commit.
func (r *repository) rootTree(commit plumbing.Hash) (plumbing.Hash, error) {
	key := objectKey{r.dir, commit}
	if tree, ok := r.folders.root(key); ok {
		return tree, nil
	}
	objects, _, err := r.bounded(commit, maxCommitBytes)
	if err != nil {
		return plumbing.ZeroHash, r.unreadable("commit "+commit.String(), err)
	}
	c, err := object.GetCommit(objects, commit)
	if err != nil {
		return plumbing.ZeroHash, r.unreadable("commit "+commit.String(), err)
	}
	r.folders.addRoot(key, c.TreeHash)
	return c.TreeHash, nil
}

func kindOfEntry(m filemode.FileMode) string {
	switch m {
	case filemode.Symlink:
		return "symbolic link"
	case filemode.Submodule:
		return "submodule"
	case filemode.Dir:
		return "folder"
	default:
		return "thing of mode " + m.String()
	}
}

// tree reads a tree.
func (r *repository) tree(id plumbing.Hash) (tree *object.Tree, size int64, err error) {
	objects, size, err := r.bounded(id, maxTreeBytes)
	if err != nil {
		return nil, 0, err
	}
	tree, err = object.GetTree(objects, id)
	return tree, size, err
}

// entry finds a name in a tree, nil if it is not there.
func (r *repository) entry(id plumbing.Hash, name string) (*object.TreeEntry, error) {
	key := objectKey{r.dir, id}
	entries, ok := r.folders.list(key)
	if !ok {
		tree, size, err := r.tree(id)
		if err != nil {
			return nil, err
		}
		entries = tree.Entries
		r.folders.addList(key, entries, size)
	}
	for _, e := range entries {
		if e.Name == name {
			return &e, nil
		}
	}
	return nil, nil
}

// bounded opens the repository for an object of at most limit bytes, and says how many it has.
func (r *repository) bounded(h plumbing.Hash, limit int64) (*filesystem.Storage, int64, error) {
	objects, err := r.objects()
	if err != nil {
		return nil, 0, err
	}
	size, err := objects.EncodedObjectSize(h)
	if err != nil {
		return nil, 0, err
	}
	if size > limit {
		return nil, 0, fmt.Errorf("%d bytes, more than %d", size, limit)
	}
	return objects, size, nil
}
