package standalone

import (
	"errors"
	"io/fs"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// objects is the repository as go-git reads it: objects and packed refs. To open it costs many times what a loose ref does, in garbage
// too, so that it is opened when it is needed first.
func (r *repository) objects() (*filesystem.Storage, error) {
	if r.opened != nil {
		return r.opened, nil
	}
	// The file system is bound to the folder, as root is.
	bound := osfs.New(r.dir, osfs.WithBoundOS())
	storer := filesystem.NewStorage(bound, &objectCache{})
	_, err := git.Open(storer, nil)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, errors.New("open: it has no HEAD, so it is no bare repository")
	}
	if err != nil {
		return nil, err
	}
	_, err = r.root.Lstat("objects/info/alternates")
	if err == nil {
		return nil, errors.New("it borrows objects from another one (objects/info/alternates), which is not supported")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.opened = storer
	return storer, nil
}
