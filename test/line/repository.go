package line

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gitlab.com/agentk/agentk/test/tool"
)

// repositories is the folder that kas reads: bare repositories laid out by project path. Changes come in as they do from people, by
// git push out of a clone.
type repositories struct {
	git    string // the program
	dir    string // of bare repositories
	clones string // one work tree per project
	home   string // git's home, empty: nothing of the user's configuration counts
}

func newRepositories(ctx context.Context, dir string) (*repositories, error) {
	git, err := tool.Install(ctx, "git", "git")
	if err != nil {
		return nil, err
	}
	r := &repositories{
		git: git, dir: filepath.Join(dir, "repositories"), clones: filepath.Join(dir, "clones"), home: filepath.Join(dir, "git-home"),
	}
	for _, folder := range []string{r.dir, r.clones, r.home} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// create makes the bare repository of a project, empty, with default branch main, and a clone of it.
func (r *repositories) create(ctx context.Context, project string) error {
	bare := filepath.Join(r.dir, project+".git")
	if _, err := os.Stat(bare); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(bare), 0o700); err != nil {
		return err
	}
	if _, err := r.run(ctx, r.dir, "init", "--quiet", "--bare", "--initial-branch=main", bare); err != nil {
		return err
	}
	clone := r.clone(project)
	if err := os.MkdirAll(clone, 0o700); err != nil {
		return err
	}
	if _, err := r.run(ctx, clone, "init", "--quiet", "--initial-branch=main"); err != nil {
		return err
	}
	_, err := r.run(ctx, clone, "remote", "add", "origin", bare)
	return err
}

// push commits files (by path; an empty content removes the file) and pushes them to the default branch. It returns the commit.
func (r *repositories) push(ctx context.Context, project string, files map[string]string) (string, error) {
	clone := r.clone(project)
	for name, content := range files {
		path := filepath.Join(clone, filepath.FromSlash(name))
		if content == "" {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return "", err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{
		{"add", "--all"},
		{"commit", "--quiet", "--allow-empty", "--message", "Change files"},
		{"push", "--quiet", "origin", "HEAD:main"},
	} {
		if _, err := r.run(ctx, clone, args...); err != nil {
			return "", err
		}
	}
	commit, err := r.run(ctx, clone, "rev-parse", "HEAD")
	return strings.TrimSpace(commit), err
}

func (r *repositories) clone(project string) string {
	return filepath.Join(r.clones, filepath.FromSlash(project))
}

func (r *repositories) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, r.git, args...)
	cmd.Dir = dir
	cmd.Env = append(plainEnvironment(r.home), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=ci-user", "GIT_AUTHOR_EMAIL=ci-user@acme.test", "GIT_COMMITTER_NAME=ci-user", "GIT_COMMITTER_EMAIL=ci-user@acme.test")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// configPath is where an agent's configuration file is in its project's repository.
func configPath(agent string) string { return ".gitlab/agents/" + agent + "/config.yaml" }

// plainEnvironment is what programs of a run see of the machine: no proxies, no credentials, no settings of the user.
func plainEnvironment(home string) []string {
	env := []string{"HOME=" + home}
	for _, name := range []string{"PATH", "TMPDIR", "TZ", "GOMAXPROCS", "GORACE", "GOTRACEBACK"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}
