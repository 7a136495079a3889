package gitlab

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// notifyLimit bounds a call from Rails to kas.
const notifyLimit = 30 * time.Second

// PushNotification is what was told to kas of a push.
type PushNotification struct {
	Project string
	// Err is nil when kas took it.
	Err error
}

// AddProject adds a project with an empty repository.
func (g *GitLab) AddProject(ctx context.Context, p Project) (Project, error) {
	g.mu.Lock()
	added, err := g.db.addProject(p)
	g.mu.Unlock()
	if err != nil {
		return Project{}, err
	}
	dir := g.repositoryDir(added)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return Project{}, err
	}
	if _, err := g.git.run(ctx, g.Dir, nil, "init", "--quiet", "--bare", "--initial-branch="+added.DefaultBranch, dir); err != nil {
		return Project{}, err
	}
	_, err = g.git.run(ctx, dir, nil, "config", "http.receivepack", "true")
	return *added, err
}

// RepositoryDir is the bare repository of a project. What is changed there behind GitLab's back stays unknown to its caches.
func (g *GitLab) RepositoryDir(project string) (string, error) {
	p, err := g.projectOf(project)
	if err != nil {
		return "", err
	}
	return g.repositoryDir(p), nil
}

func (g *GitLab) repositoryDir(p *Project) string {
	return filepath.Join(g.path("repositories"), filepath.FromSlash(p.relativePath()))
}

func (g *GitLab) projectOf(path string) (*Project, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.db.project(path)
	if p == nil {
		return nil, fmt.Errorf("project %q: %w", path, ErrNotFound)
	}
	return p, nil
}

// Commit changes files on a branch (empty: the default branch) as the web editor does, and returns the commit. An empty content removes
// the file. kas is told of it as of a push.
func (g *GitLab) Commit(ctx context.Context, project, branch string, files map[string]string) (string, error) {
	p, err := g.projectOf(project)
	if err != nil {
		return "", err
	}
	if branch == "" {
		branch = p.DefaultBranch
	}
	dir, ref := g.repositoryDir(p), "refs/heads/"+branch
	parent, err := g.git.run(ctx, dir, nil, "for-each-ref", "--format=%(objectname)", ref)
	if err != nil {
		return "", err
	}
	if _, err := g.git.run(ctx, dir, commitStream(ref, parent, files, g.cfg.Now()), "fast-import", "--quiet"); err != nil {
		return "", err
	}
	commit, err := g.git.run(ctx, dir, nil, "rev-parse", "--verify", ref)
	if err != nil {
		return "", err
	}
	g.postReceive(p)
	return commit, nil
}

// commitStream is a commit as git fast-import reads it.
func commitStream(ref, parent string, files map[string]string, now time.Time) io.Reader {
	var b strings.Builder
	const message = "Change files"
	fmt.Fprintf(&b, "commit %s\ncommitter GitLab <gitlab@gitlab.test> %d +0000\ndata %d\n%s\n", ref, now.Unix(), len(message), message)
	if parent != "" {
		fmt.Fprintf(&b, "from %s\n", parent)
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		content := files[path]
		if content == "" {
			fmt.Fprintf(&b, "D %q\n", path)
			continue
		}
		fmt.Fprintf(&b, "M 100644 inline %q\ndata %d\n%s\n", path, len(content), content)
	}
	return strings.NewReader(b.String())
}

// PushConfig commits the configuration file of an agent; empty removes it.
func (g *GitLab) PushConfig(ctx context.Context, agentID int64, content string) (string, error) {
	g.mu.Lock()
	a := g.db.agents[agentID]
	g.mu.Unlock()
	if a == nil {
		return "", fmt.Errorf("agent %d: %w", agentID, ErrNotFound)
	}
	return g.Commit(ctx, a.project.Path, "", map[string]string{a.configPath(): content})
}

// postReceive is what GitLab does after a push: caches are told, and kas.
func (g *GitLab) postReceive(p *Project) {
	g.Gitaly.Invalidate(storageName, p.relativePath())
	settings := g.current()
	if settings.NoPushNotification || settings.Kas.InternalURL == "" {
		return
	}
	g.workers.do(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, notifyLimit)
		defer cancel()
		err := g.Kas().GitPush(ctx, p.Path)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.db.pushes = append(g.db.pushes, PushNotification{Project: p.Path, Err: err})
	})
}

// PushNotifications are those that came to an end so far, oldest first.
func (g *GitLab) PushNotifications() []PushNotification {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.db.pushes)
}
