package standalone

import (
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const (
	// maxKnown bounds what folders keeps, in bytes of the repository, maxKnownEach one of them.
	maxKnown     = 1 << 20
	maxKnownEach = maxKnown / 4
	// perCommit is what a commit counts for.
	perCommit = 100
)

// folders remembers what commits and folders hold. Their ids are made of that, so that nothing in it ever gets old. Contents of files are
// not in it.
type folders struct {
	limit int64

	// mu guards the rest; entries themselves never change. bytes is the size of all that is known.
	mu      sync.Mutex
	commits map[objectKey]plumbing.Hash
	entries map[objectKey][]object.TreeEntry
	bytes   int64
}

// objectKey names an object of one repository: what one has, another need not have.
type objectKey struct {
	dir string
	id  plumbing.Hash
}

func newFolders(limit int64) *folders {
	f := &folders{limit: limit}
	f.forget()
	return f
}

// forget drops all: what is needed comes again.
func (f *folders) forget() {
	f.commits, f.entries, f.bytes = map[objectKey]plumbing.Hash{}, map[objectKey][]object.TreeEntry{}, 0
}

// root is the tree of a commit.
func (f *folders) root(commit objectKey) (plumbing.Hash, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tree, ok := f.commits[commit]
	return tree, ok
}

func (f *folders) addRoot(commit objectKey, tree plumbing.Hash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count(perCommit)
	f.commits[commit] = tree
}

// list is what is in a folder. It must not be changed.
func (f *folders) list(tree objectKey) ([]object.TreeEntry, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, ok := f.entries[tree]
	return entries, ok
}

// addList takes what is in a folder whose object has so many bytes.
func (f *folders) addList(tree objectKey, entries []object.TreeEntry, size int64) {
	if size > maxKnownEach {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count(size + perCommit)
	f.entries[tree] = entries
}

// count makes room. f.mu is held.
func (f *folders) count(size int64) {
	if f.bytes+size > f.limit {
		f.forget()
	}
	f.bytes += size
}
