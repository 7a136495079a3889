package standalone

import (
	"context"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/fault"
)

// headState is where a default branch was at the last look.
type headState struct {
	// commit is "" for an empty repository, one without that branch, and none at all.
	commit string
	// refs is a fingerprint of all refs, 0 before the first look.
	refs uint64
	// broken: the last look failed; commit and refs are of the look before.
	broken bool
}

// maxRefFolders bounds how many folders of refs of one repository are watched. Refs in further ones are noticed when somebody polls.
const maxRefFolders = 1000

// refWatch notices when refs move. What follows a default branch is told that something has changed; what follows another ref is told
// of a push, without which it would look again only after its poll period.
type refWatch struct {
	b *Backend
	w *watcher
	// owners maps a watched folder to the projects whose refs it holds.
	owners map[string][]string
	dirty  map[string]bool
}

// watchRepositories reports moves of default branches until ctx ends.
func (b *Backend) watchRepositories(ctx context.Context) {
	rw := &refWatch{b: b, w: newWatcher(b.cfg.Log), dirty: map[string]bool{}}
	defer rw.w.close()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	rw.scanAll(ctx)
	var settled <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-rw.w.events():
			if rw.mark(ev.Name) && settled == nil {
				settled = time.After(debounce)
			}
		case <-settled:
			settled = nil
			rw.scanDirty(ctx)
		case <-rw.w.errors():
			rw.scanAll(ctx)
		case <-poll.C:
			rw.scanAll(ctx)
		case <-b.reloaded:
			rw.scanAll(ctx)
		}
	}
}

// mark notes whose refs an event is about. Lock files come and go around the change that counts.
func (rw *refWatch) mark(path string) bool {
	if strings.HasSuffix(path, ".lock") {
		return false
	}
	found := false
	for _, dir := range []string{filepath.Dir(path), path} {
		for _, project := range rw.owners[dir] {
			rw.dirty[project] = true
			found = true
		}
	}
	return found
}

// scanAll looks at every project and watches exactly the folders that matter now.
func (rw *refWatch) scanAll(ctx context.Context) {
	sec := rw.b.section.Load()
	clear(rw.dirty)
	rw.owners = map[string][]string{}
	seen := make(map[string]bool, len(sec.projects))
	for _, p := range sec.projects {
		seen[p.path] = true
		rw.look(ctx, sec, p.path)
	}
	if ctx.Err() != nil {
		return
	}
	rw.w.keep(func(dir string) bool { return len(rw.owners[dir]) > 0 })
	for path := range rw.b.heads {
		if !seen[path] {
			delete(rw.b.heads, path)
		}
	}
}

func (rw *refWatch) scanDirty(ctx context.Context) {
	sec := rw.b.section.Load()
	for path := range rw.dirty {
		delete(rw.dirty, path)
		if p := sec.projects[strings.ToLower(path)]; p != nil && p.path == path {
			rw.look(ctx, sec, path)
		}
	}
}

// look compares the head of one project with the last look, after making sure that the next move will be noticed.
func (rw *refWatch) look(ctx context.Context, sec *section, project string) {
	commit, refs := "", uint64(0)
	err := rw.b.repos.use(ctx, sec.root(), project, func(repo *repository) error {
		refs = rw.watch(repo)
		ref, err := repo.defaultRef("")
		if err != nil {
			return err
		}
		commit, err = repo.commit(ref)
		return err
	})
	if ctx.Err() != nil {
		return
	}
	old := rw.b.heads[project]
	if err != nil && fault.KindOf(err) != fault.NotFound {
		if !old.broken {
			rw.b.warnUnreadable(project, err)
		}
		old.broken = true
		rw.b.heads[project] = old
		return
	}
	rw.b.heads[project] = headState{commit: commit, refs: refs}
	// A project seen for the first time counts as moved if it has commits: someone may have read it before this look.
	moved := commit != old.commit
	switch {
	case moved:
		rw.b.cfg.Log.Debug("Default branch moved", zap.String("project", project), zap.String("commit_id", commit))
		rw.b.cfg.OnPush(project)
	case !old.broken && old.refs != 0 && refs != old.refs:
		rw.b.cfg.Log.Debug("Refs changed", zap.String("project", project))
		rw.b.cfg.OnPush(project)
	}
	if moved || old.broken {
		rw.b.changed.fire()
	}
}

// watch watches the folders whose entries change when a ref moves: that of HEAD and packed-refs, and those of loose refs. It returns a
// fingerprint of them, which is another one after each move: a ref is written beside its place and then renamed.
func (rw *refWatch) watch(repo *repository) uint64 {
	rw.own(repo.dir, repo.project)
	sum := fnv.New64a()
	note := func(path string, info fs.FileInfo, err error) {
		if err == nil {
			fmt.Fprintln(sum, path, info.ModTime().UnixNano())
		}
	}
	packed := filepath.Join(repo.dir, "packed-refs")
	info, err := os.Lstat(packed)
	note(packed, info, err)
	folders := 0
	_ = filepath.WalkDir(filepath.Join(repo.dir, "refs"), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || !entry.IsDir():
			return nil // a folder may go while it is looked at
		case folders == maxRefFolders:
			return fs.SkipAll
		}
		folders++
		info, err := entry.Info()
		note(path, info, err)
		rw.own(path, repo.project)
		return nil
	})
	return sum.Sum64()
}

func (rw *refWatch) own(dir, project string) {
	for _, p := range rw.owners[dir] {
		if p == project {
			return
		}
	}
	rw.owners[dir] = append(rw.owners[dir], project)
	rw.w.add(dir)
}

// rememberHeads takes the state of New as the one that later moves are measured against.
func (b *Backend) rememberHeads(ctx context.Context) {
	sec := b.section.Load()
	for _, p := range sec.projects {
		commit, err := b.repos.head(ctx, sec.root(), p.path, "")
		broken := err != nil && fault.KindOf(err) != fault.NotFound
		if broken {
			b.warnUnreadable(p.path, err)
		}
		b.heads[p.path] = headState{commit: commit, broken: broken}
	}
}

func (b *Backend) warnUnreadable(project string, err error) {
	b.cfg.Log.Warn("Repository cannot be read", zap.String("project", project), zap.Error(err))
}
