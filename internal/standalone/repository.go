package standalone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// maxOpen bounds how many repositories are read at once, and with that the memory that pack indexes take.
	maxOpen = 8
	// maxRefBytes bounds a loose ref file. A ref name has at most 255 bytes per part, so this is generous.
	maxRefBytes = 4 << 10
	// maxSymbolic is how many symbolic refs may follow each other; git's own limit.
	maxSymbolic = 5
)

// repositories reads bare repositories that others push to at the same time. Every call opens its repository anew: go-git's
// storage is not safe for several goroutines and would not see packs that came after it was opened. What names its content, commits and
// folders, is kept for the next call: thousands of agents that arrive together ask for the same ones.
type repositories struct {
	slots   chan struct{}
	folders *folders
}

func newRepositories() *repositories {
	return &repositories{slots: make(chan struct{}, maxOpen), folders: newFolders(maxKnown)}
}

// repository is one open repository, for use by one goroutine.
type repository struct {
	project string // full path, for messages
	dir     string
	// root is the folder. A link inside of it cannot lead out.
	root *os.Root
	// folders is shared by all.
	folders *folders
	// opened is what objects returns, nil before.
	opened *filesystem.Storage
}

// use runs f on the repository of a project. Whatever go-git does with a damaged repository, it stays in here.
func (r *repositories) use(ctx context.Context, root, project string, f func(*repository) error) (err error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait to read repository of project %q: %w", project, ctx.Err())
	}
	defer func() {
		if p := recover(); p != nil {
			err = fault.New(fault.Unavailable, fault.Git, "repository of project %q is damaged: %v", project, p)
		}
	}()
	repo, err := openRepository(root, project)
	if err != nil {
		return err
	}
	defer func() { _ = repo.root.Close() }()
	repo.folders = r.folders
	return f(repo)
}

// openRepository finds <root>/<project>.git and makes sure that it is inside root even when links are followed. Faults: NotFound
// if there is none, Unavailable if it cannot be read.
func openRepository(root, project string) (*repository, error) {
	err := checkPath(project)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, fault.Git, err, "repository of project %q not found", project)
	}
	realRoot, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fault.New(fault.Unavailable, fault.Git, "repositories_dir cannot be read: %s", reason(err))
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(realRoot, filepath.FromSlash(project)+".git"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, fault.Git, "repository of project %q not found: there is no %s.git in repositories_dir", project, project)
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, fault.Git, "repository of project %q cannot be read: %s", project, reason(err))
	}
	rel, err := filepath.Rel(realRoot, dir)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return nil, fault.New(fault.NotFound, fault.Git, "repository of project %q not found: %s.git leads out of repositories_dir", project, project)
	}
	folder, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.New(fault.Unavailable, fault.Git, "repository of project %q cannot be read: %s", project, reason(err))
	}
	return &repository{project: project, dir: dir, root: folder}, nil
}

// unreadable is the fault of a repository that exists but does not give what it should.
func (r *repository) unreadable(step string, err error) error {
	return fault.New(fault.Unavailable, fault.Git, "repository of project %q cannot be read: %s: %s", r.project, step, reason(err))
}

// reason is the text of an error without the server's own folder names, which are nobody's business.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Op + ": " + p.Err.Error()
	}
	return err.Error()
}

func (r *repositories) head(ctx context.Context, root, project, branch string) (string, error) {
	commit := ""
	err := r.use(ctx, root, project, func(repo *repository) error {
		ref, err := repo.defaultRef(branch)
		if err != nil {
			return err
		}
		commit, err = repo.commit(ref)
		return err
	})
	if err != nil {
		return "", err
	}
	return commit, nil
}

// defaultRef is the ref of the named branch; without a name that which HEAD points to, or HEAD itself if it is detached.
func (r *repository) defaultRef(branch string) (plumbing.ReferenceName, error) {
	if branch != "" {
		ref := plumbing.NewBranchReferenceName(branch)
		err := ref.Validate()
		if err != nil || !ref.IsSafe() {
			return "", fault.New(fault.NotFound, fault.Git, "project %q has no branch %q: not a valid name", r.project, branch)
		}
		return ref, nil
	}
	ref := plumbing.HEAD
	for range maxSymbolic {
		target, _, err := r.read(ref)
		if errors.Is(err, plumbing.ErrReferenceNotFound) {
			return ref, nil
		}
		if err != nil {
			return "", r.unreadable(ref.String(), err)
		}
		if target == "" {
			return ref, nil
		}
		if !target.IsSafe() {
			return "", r.unreadable(ref.String(), errors.New("points to what is no ref"))
		}
		ref = target
	}
	return "", r.unreadable(plumbing.HEAD.String(), errors.New("too many symbolic refs"))
}

// commit is what a ref points to, "" if the repository has no ref at all.
func (r *repository) commit(ref plumbing.ReferenceName) (string, error) {
	target, hash, err := r.read(ref)
	if err == nil && target != "" {
		return "", r.unreadable(ref.String(), errors.New("symbolic ref where a commit is expected"))
	}
	if err == nil {
		return hash.String(), nil
	}
	if !errors.Is(err, plumbing.ErrReferenceNotFound) {
		return "", r.unreadable(ref.String(), err)
	}
	empty, err := r.empty()
	if err != nil {
		return "", r.unreadable("list refs", err)
	}
	if empty {
		return "", nil
	}
	return "", fault.New(fault.NotFound, fault.Git, "project %q has no ref %s, which is its default branch", r.project, ref)
}

func (r *repository) empty() (bool, error) {
	objects, err := r.objects()
	if err != nil {
		return false, err
	}
	refs, err := objects.IterReferences()
	if err != nil {
		return false, err
	}
	defer refs.Close()
	for {
		ref, err := refs.Next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if ref.Name() != plumbing.HEAD {
			return false, nil
		}
	}
}

// read returns the target of a symbolic ref, or the hash of any other. Loose refs are read strictly, not by go-git: that falls
// back to a packed, older value when a loose ref is damaged, and an older configuration may grant what the newer took away. The
// name must be a safe one.
func (r *repository) read(name plumbing.ReferenceName) (plumbing.ReferenceName, plumbing.Hash, error) {
	data, err := r.loose(name)
	if errors.Is(err, fs.ErrNotExist) {
		objects, err := r.objects()
		if err != nil {
			return "", plumbing.ZeroHash, err
		}
		ref, err := objects.Reference(name)
		if err != nil {
			return "", plumbing.ZeroHash, err
		}
		if ref.Hash().IsZero() {
			return "", plumbing.ZeroHash, errors.New("damaged ref")
		}
		return "", ref.Hash(), nil
	}
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	text := strings.TrimSpace(string(data))
	if target, ok := strings.CutPrefix(text, "ref:"); ok && strings.TrimSpace(target) != "" {
		return plumbing.ReferenceName(strings.TrimSpace(target)), plumbing.ZeroHash, nil
	}
	hash := plumbing.NewHash(text)
	if !plumbing.IsHash(text) || hash.IsZero() || hash.String() != text {
		return "", plumbing.ZeroHash, errors.New("damaged ref")
	}
	return "", hash, nil
}

func (r *repository) loose(name plumbing.ReferenceName) ([]byte, error) {
	f, err := r.root.Open(filepath.FromSlash(name.String()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		// "refs/heads/a" is a folder while a branch "a/b" exists or did; the ref "a" may still be packed.
		return nil, fs.ErrNotExist
	}
	if info.Size() > maxRefBytes {
		return nil, errors.New("damaged ref")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRefBytes+1))
	if err == nil && len(data) > maxRefBytes {
		err = errors.New("damaged ref")
	}
	return data, err
}
