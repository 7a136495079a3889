package standalone

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"gitlab.com/agentk/agentk/internal/fault"
)

func TestFolders(t *testing.T) {
	f := newFolders(1000)
	a, b := objectKey{"a", plumbing.NewHash("01")}, objectKey{"b", plumbing.NewHash("01")}
	f.addRoot(a, plumbing.NewHash("02"))
	f.addList(a, []object.TreeEntry{{Name: "x"}}, 100)
	if tree, ok := f.root(a); !ok || tree != plumbing.NewHash("02") {
		t.Errorf("%s, %t", tree, ok)
	}
	if entries, ok := f.list(a); !ok || len(entries) != 1 {
		t.Errorf("%v, %t", entries, ok)
	}
	if _, ok := f.root(b); ok {
		t.Error("a commit of another repository")
	}
	if _, ok := f.list(b); ok {
		t.Error("a folder of another repository")
	}
	f.addList(b, nil, maxKnownEach+1)
	if _, ok := f.list(b); ok {
		t.Error("a huge folder is kept")
	}
	for i := range 100 {
		f.addList(objectKey{"c", plumbing.Hash{byte(i)}}, nil, 100)
		if f.bytes > f.limit || len(f.entries) > 5 {
			t.Fatalf("%d bytes in %d folders", f.bytes, len(f.entries))
		}
	}
	if _, ok := f.list(objectKey{"c", plumbing.Hash{99}}); !ok {
		t.Error("what was added last is not known")
	}
}

// Agents that ask for what is known already cost no opening of the repository, and get the same answers.
func TestRepository_KnownFolders(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	commit := r.pushConfig("edge", "# 1")
	b := newTestBackend(t, baseSection(root), nil)
	const missing = ".gitlab/agents/other/config.yaml"
	_, err := b.File(t.Context(), agentsProject, commit, missing, 100)
	wantFault(t, err, fault.NotFound, missing)
	wantFile(t, b, commit, "# 1")
	opened := func(path string) bool {
		var was bool
		err := b.repos.use(t.Context(), root, "infra/agents", func(repo *repository) error {
			_, err := repo.file(t.Context(), plumbing.NewHash(commit), path, 100)
			was = repo.opened != nil
			return err
		})
		if err != nil {
			wantFault(t, err, fault.NotFound, missing)
		}
		return was
	}
	if opened(missing) {
		t.Error("the repository was opened for a folder that is known")
	}
	if !opened(configFile) {
		t.Error("the content of a file came from nowhere")
	}
	next := r.pushConfig("other", "# 2")
	data, err := b.File(t.Context(), agentsProject, next, missing, 100)
	if err != nil || string(data) != "# 2" {
		t.Errorf("after a push: %q, %v", data, err)
	}
	remove(t, r.bare)
	_, err = b.File(t.Context(), agentsProject, commit, missing, 100)
	wantFault(t, err, fault.Unavailable)
}

// A head is read without opening the repository, unless it is packed.
func TestRepository_HeadOpensNothing(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	commit := r.push()
	look := func() (opened bool) {
		err := newRepositories().use(t.Context(), root, "infra/agents", func(repo *repository) error {
			ref, err := repo.defaultRef("")
			if err != nil {
				return err
			}
			got, err := repo.commit(ref)
			if got != commit {
				t.Errorf("%q, want %q", got, commit)
			}
			opened = repo.opened != nil
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return opened
	}
	if look() {
		t.Error("opened for a loose ref")
	}
	runGit(t, r.bare, "pack-refs", "--all")
	if _, err := os.Lstat(filepath.Join(r.bare, "refs/heads/main")); err == nil {
		t.Fatal("the ref is not packed")
	}
	if !look() {
		t.Error("not opened for a packed ref")
	}
}
