package standalone

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

func remove(t *testing.T, path string) {
	t.Helper()
	err := os.RemoveAll(path)
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	// git writes objects read-only.
	_ = os.Remove(path)
	err := os.WriteFile(path, []byte(content), 0o600)
	if err != nil {
		t.Fatal(err)
	}
}

var agentsProject = backend.Project{ID: 31, Path: "infra/agents"}

const configFile = ".gitlab/agents/edge/config.yaml"

// head reads through the exported ports, as consumers do.
func head(t *testing.T, b *Backend) string {
	t.Helper()
	commit, err := b.Head(t.Context(), agentsProject)
	if err != nil {
		t.Fatal(err)
	}
	return commit
}

func wantFile(t *testing.T, b *Backend, commit, want string) {
	t.Helper()
	data, err := b.File(t.Context(), agentsProject, commit, configFile, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != want {
		t.Errorf("file is %q, want %q", data, want)
	}
}

func TestRepository_Head(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	b := newTestBackend(t, baseSection(root), nil)
	if got := head(t, b); got != "" {
		t.Errorf("empty repository has head %q", got)
	}
	first := r.pushConfig("edge", "# 1")
	if got := head(t, b); got != first {
		t.Errorf("head %s, want %s", got, first)
	}
	second := r.pushConfig("edge", "# 2")
	if got := head(t, b); got != second {
		t.Errorf("head %s, want %s", got, second)
	}
	wantFile(t, b, first, "# 1")
	wantFile(t, b, second, "# 2")

	runGit(t, r.bare, "branch", "other", first)
	got, err := b.Head(t.Context(), backend.Project{Path: "Infra/Agents", DefaultBranch: "other"})
	if err != nil || got != first {
		t.Errorf("head of branch other is %s, %v; want %s", got, err, first)
	}
	runGit(t, r.bare, "symbolic-ref", "HEAD", "refs/heads/other")
	if got := head(t, b); got != first {
		t.Errorf("head after HEAD moved is %s, want %s", got, first)
	}
	overwrite(t, filepath.Join(r.bare, "HEAD"), second+"\n")
	if got := head(t, b); got != second {
		t.Errorf("detached head is %s, want %s", got, second)
	}
}

func TestRepository_PackedRefsAfterGC(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	b := newTestBackend(t, baseSection(root), nil)
	first := r.pushConfig("edge", "# 1")
	for i := range 20 {
		r.pushConfig("edge", fmt.Sprintf("# change %d %s", i, strings.Repeat("x", 500)))
	}
	second := r.pushConfig("edge", "# 2")
	runGit(t, r.bare, "gc", "--quiet", "--prune=now")
	if _, err := os.Stat(filepath.Join(r.bare, "refs/heads/main")); !os.IsNotExist(err) {
		t.Fatalf("ref is not packed: %v", err)
	}
	if got := head(t, b); got != second {
		t.Errorf("head %s, want %s", got, second)
	}
	wantFile(t, b, first, "# 1")
	third := r.pushConfig("edge", "# 3")
	if got := head(t, b); got != third {
		t.Errorf("loose head after packed one is %s, want %s", got, third)
	}
	wantFile(t, b, third, "# 3")
	// A damaged loose ref must not bring back the older packed one.
	overwrite(t, filepath.Join(r.bare, "refs/heads/main"), "")
	_, err := b.Head(t.Context(), agentsProject)
	wantFault(t, err, fault.Unavailable, "infra/agents", "refs/heads/main", "damaged ref")
}

func TestRepository_ForcePush(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	b := newTestBackend(t, baseSection(root), nil)
	first := r.pushConfig("edge", "# 1")
	lost := r.pushConfig("edge", "# 2")
	runGit(t, r.work, "reset", "--quiet", "--hard", first)
	r.write(configFile, "# forced")
	forced := r.push("--force")
	if got := head(t, b); got != forced {
		t.Errorf("head %s, want %s", got, forced)
	}
	runGit(t, r.bare, "reflog", "expire", "--all", "--expire=now")
	runGit(t, r.bare, "gc", "--quiet", "--prune=now")
	wantFile(t, b, forced, "# forced")
	// NotFound would read as an empty configuration.
	_, err := b.File(t.Context(), agentsProject, lost, configFile, 1000)
	wantFault(t, err, fault.Unavailable, "infra/agents", lost)
}

func TestRepository_NotFound(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	b := newTestBackend(t, baseSection(root), nil)
	commit := r.push()
	_, err := b.Head(t.Context(), backend.Project{Path: "infra/agents", DefaultBranch: "gone"})
	wantFault(t, err, fault.NotFound, "infra/agents", "refs/heads/gone")
	_, err = b.Head(t.Context(), backend.Project{Path: "infra/agents", DefaultBranch: "../../config"})
	wantFault(t, err, fault.NotFound, "infra/agents")
	_, err = b.Head(t.Context(), backend.Project{Path: "infra/team/app"})
	wantFault(t, err, fault.NotFound, "infra/team/app.git")
	_, err = b.Head(t.Context(), backend.Project{Path: "infra/unknown"})
	wantFault(t, err, fault.NotFound, "infra/unknown")
	_, err = b.File(t.Context(), backend.Project{Path: "infra/team/app"}, commit, configFile, 10)
	wantFault(t, err, fault.Unavailable, "infra/team/app")
	_, err = b.File(t.Context(), backend.Project{Path: "infra/unknown"}, commit, configFile, 10)
	wantFault(t, err, fault.Unavailable, "infra/unknown")

	runGit(t, r.bare, "branch", "other")
	runGit(t, r.bare, "update-ref", "-d", "refs/heads/main")
	_, err = b.Head(t.Context(), agentsProject)
	wantFault(t, err, fault.NotFound, "infra/agents", "refs/heads/main")
	runGit(t, r.bare, "update-ref", "-d", "refs/heads/other")
	if got := head(t, b); got != "" {
		t.Errorf("repository without refs has head %q", got)
	}
}

func TestRepository_FileThatIsNone(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	b := newTestBackend(t, baseSection(root), nil)
	r.write("dir/file", "x")
	r.write("exact", strings.Repeat("x", 100))
	r.write("huge", strings.Repeat("\x00", 32<<20))
	for link, target := range map[string]string{"link": "dir/file", "linkdir": "dir", "outside": "/etc/passwd", "loop": "loop"} {
		err := os.Symlink(target, filepath.Join(r.work, link))
		if err != nil {
			t.Fatal(err)
		}
	}
	first := r.push()
	runGit(t, r.work, "update-index", "--add", "--cacheinfo", "160000,"+first+",module")
	runGit(t, r.work, "commit", "--quiet", "--message", "submodule")
	runGit(t, r.work, "push", "--quiet", "origin", "HEAD:main")
	commit := runGit(t, r.work, "rev-parse", "HEAD")

	tests := []struct {
		path string
		kind fault.Kind
		word string
	}{
		{"none", fault.NotFound, "none"},
		{"dir/none", fault.NotFound, "dir/none"},
		{"dir/file/below", fault.NotFound, "below"},
		{"", fault.NotFound, ""},
		{"/dir/file", fault.NotFound, ""},
		{"dir/../dir/file", fault.NotFound, ""},
		{"../../config", fault.NotFound, ""},
		{"dir", fault.FailedPrecondition, "folder"},
		{"link", fault.FailedPrecondition, "symbolic link"},
		{"outside", fault.FailedPrecondition, "symbolic link"},
		{"loop", fault.FailedPrecondition, "symbolic link"},
		{"linkdir/file", fault.FailedPrecondition, "linkdir is a symbolic link"},
		{"module", fault.FailedPrecondition, "submodule"},
		{"module/file", fault.FailedPrecondition, "submodule"},
		{"huge", fault.FailedPrecondition, "33554432 bytes, at most 100 "},
	}
	for _, packed := range []bool{false, true} {
		for _, tt := range tests {
			_, err := b.File(t.Context(), agentsProject, commit, tt.path, 100)
			wantFault(t, err, tt.kind, tt.word, "infra/agents")
		}
		for path, size := range map[string]int{"exact": 100, "dir/file": 1} {
			data, err := b.File(t.Context(), agentsProject, commit, path, 100)
			if err != nil || len(data) != size {
				t.Errorf("packed %v: %s has %d bytes, error %v", packed, path, len(data), err)
			}
		}
		runGit(t, r.bare, "gc", "--quiet")
	}
	for _, bad := range []string{"", "main", "HEAD", commit[:39], commit + "0", strings.Repeat("z", 40)} {
		_, err := b.File(t.Context(), agentsProject, bad, "exact", 100)
		wantFault(t, err, fault.InvalidArgument, "is not a commit id")
	}
	tree := runGit(t, r.work, "rev-parse", "HEAD^{tree}")
	_, err := b.File(t.Context(), agentsProject, tree, "exact", 100)
	wantFault(t, err, fault.Unavailable, tree)
}

func TestRepository_TraversalAndLinks(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	newGitRepo(t, outside, "secret").push()
	newGitRepo(t, root, "real").push()
	for link, target := range map[string]string{
		"leaving.git":  filepath.Join(outside, "secret.git"),
		"dotdot.git":   "../" + filepath.Base(outside) + "/secret.git",
		"loop.git":     "loop.git",
		"dangling.git": "nowhere.git",
		"inside.git":   "real.git",
		"folder":       outside,
	} {
		err := os.Symlink(target, filepath.Join(root, link))
		if err != nil {
			t.Fatal(err)
		}
	}
	repos := newRepositories()
	for _, path := range []string{
		"leaving", "dotdot", "dangling", "folder/secret", "", ".", "..", "/", "../" + filepath.Base(outside) + "/secret",
		filepath.Join(outside, "secret"), "x/../../" + filepath.Base(outside) + "/secret", "real.git/../real", "a\x00b",
	} {
		_, err := repos.head(t.Context(), root, path, "")
		if fault.KindOf(err) != fault.NotFound {
			t.Errorf("%q: error %v, want NotFound", path, err)
		}
	}
	_, err := repos.head(t.Context(), root, "loop", "")
	wantFault(t, err, fault.Unavailable, "loop")
	_, err = repos.head(t.Context(), root, "inside", "")
	if err != nil {
		t.Errorf("link inside of the folder: %v", err)
	}
	link := filepath.Join(t.TempDir(), "root")
	err = os.Symlink(root, link)
	if err != nil {
		t.Fatal(err)
	}
	_, err = repos.head(t.Context(), link, "real", "")
	if err != nil {
		t.Errorf("repositories_dir is a link: %v", err)
	}
	_, err = repos.head(t.Context(), filepath.Join(root, "gone"), "real", "")
	wantFault(t, err, fault.Unavailable, "repositories_dir")
}

func TestRepository_RefLeadsOut(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	commit := r.push()
	overwrite(t, filepath.Join(outside, "ref"), commit)
	b := newTestBackend(t, baseSection(root), nil)
	for _, text := range []string{
		"ref: ../../../etc/passwd\n", "ref: " + outside + "/ref\n", "ref: refs/../config", "ref: config", "ref:", "ref: HEAD",
		"garbage", commit[:20], strings.Repeat("0", 40), strings.Repeat("a", 64), strings.Repeat("x", 1<<20), "\x00",
	} {
		overwrite(t, filepath.Join(r.bare, "HEAD"), text)
		_, err := b.Head(t.Context(), agentsProject)
		wantFault(t, err, fault.Unavailable, "infra/agents")
		if len(err.Error()) > 300 {
			t.Errorf("error has %d bytes", len(err.Error()))
		}
	}
	overwrite(t, filepath.Join(r.bare, "HEAD"), "ref: refs/heads/out\n")
	err := os.Symlink(filepath.Join(outside, "ref"), filepath.Join(r.bare, "refs/heads/out"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Head(t.Context(), agentsProject)
	if err == nil {
		t.Error("a link out of the repository was followed")
	}
}

func TestRepository_Damaged(t *testing.T) {
	damage := map[string]func(t *testing.T, r *gitRepo, commit string){
		"object emptied": func(t *testing.T, r *gitRepo, commit string) {
			overwrite(t, filepath.Join(r.bare, "objects", commit[:2], commit[2:]), "")
		},
		"object garbage": func(t *testing.T, r *gitRepo, commit string) {
			overwrite(t, filepath.Join(r.bare, "objects", commit[:2], commit[2:]), "garbage")
		},
		"blob missing": func(t *testing.T, r *gitRepo, _ string) {
			blob := runGit(t, r.work, "rev-parse", "HEAD:"+configFile)
			remove(t, filepath.Join(r.bare, "objects", blob[:2], blob[2:]))
		},
		"blob is another": func(t *testing.T, r *gitRepo, commit string) {
			blob := runGit(t, r.work, "rev-parse", "HEAD:"+configFile)
			data, err := os.ReadFile(filepath.Join(r.bare, "objects", commit[:2], commit[2:]))
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, filepath.Join(r.bare, "objects", blob[:2], blob[2:]), string(data))
		},
		"pack cut":        func(t *testing.T, r *gitRepo, _ string) { damagePack(t, r, "*.pack", 30) },
		"pack emptied":    func(t *testing.T, r *gitRepo, _ string) { damagePack(t, r, "*.pack", 0) },
		"index cut":       func(t *testing.T, r *gitRepo, _ string) { damagePack(t, r, "*.idx", 1100) },
		"index emptied":   func(t *testing.T, r *gitRepo, _ string) { damagePack(t, r, "*.idx", 0) },
		"objects removed": func(t *testing.T, r *gitRepo, _ string) { remove(t, filepath.Join(r.bare, "objects")) },
		"HEAD removed":    func(t *testing.T, r *gitRepo, _ string) { remove(t, filepath.Join(r.bare, "HEAD")) },
		"config garbage":  func(t *testing.T, r *gitRepo, _ string) { overwrite(t, filepath.Join(r.bare, "config"), "[[[") },
		"sha256": func(t *testing.T, r *gitRepo, _ string) {
			runGit(t, r.bare, "config", "core.repositoryformatversion", "1")
			runGit(t, r.bare, "config", "extensions.objectformat", "sha256")
		},
		"alternates": func(t *testing.T, r *gitRepo, _ string) {
			overwrite(t, filepath.Join(r.bare, "objects/info/alternates"), "/etc\n")
		},
		"not a folder": func(t *testing.T, r *gitRepo, _ string) { remove(t, r.bare); overwrite(t, r.bare, "") },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			r := newGitRepo(t, root, "infra/agents")
			commit := r.pushConfig("edge", "# 1")
			b := newTestBackend(t, baseSection(root), nil)
			f(t, r, commit)
			_, err := b.Head(t.Context(), agentsProject)
			if err != nil {
				wantFault(t, err, fault.Unavailable, "infra/agents")
			}
			_, err = b.File(t.Context(), agentsProject, commit, configFile, 1000)
			wantFault(t, err, fault.Unavailable, "infra/agents")
		})
	}
}

func damagePack(t *testing.T, r *gitRepo, pattern string, size int64) {
	t.Helper()
	runGit(t, r.bare, "gc", "--quiet")
	files, err := filepath.Glob(filepath.Join(r.bare, "objects/pack", pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("packs %v, %v", files, err)
	}
	err = os.Chmod(files[0], 0o600)
	if err != nil {
		t.Fatal(err)
	}
	err = os.Truncate(files[0], size)
	if err != nil {
		t.Fatal(err)
	}
}

func TestRepository_ReadersWhilePushingAndPacking(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	r.pushConfig("edge", "# 0")
	b := newTestBackend(t, baseSection(root), nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				commit, err := b.Head(context.Background(), agentsProject)
				if err != nil || commit == "" {
					t.Errorf("head %q, %v", commit, err)
					return
				}
				_, err = b.File(context.Background(), agentsProject, commit, configFile, 1000)
				if err != nil {
					t.Errorf("file: %v", err)
					return
				}
			}
		})
	}
	for i := range 10 {
		r.pushConfig("edge", fmt.Sprintf("# %d", i+1))
		runGit(t, r.bare, "gc", "--quiet", "--prune=now")
	}
	cancel()
	wg.Wait()
}

func TestRepository_Deadlines(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	commit := r.pushConfig("edge", "# 1")
	b := newTestBackend(t, baseSection(root), nil)
	for range maxOpen {
		b.repos.slots <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := b.Head(ctx, agentsProject)
	wantFault(t, err, fault.DeadlineExceeded, "infra/agents")
	for range maxOpen {
		<-b.repos.slots
	}
	_, err = b.File(ctx, agentsProject, commit, configFile, 1000)
	wantFault(t, err, fault.DeadlineExceeded, "infra/agents")
}
