package gitlab

import (
	"crypto/rand"
	"fmt"
	"path"
	"strings"
)

// Environment is where a job deploys to.
type Environment struct{ Name, Slug, Tier string }

// Job is a running CI job.
type Job struct {
	ID, Pipeline  int64
	Name          string
	Project, User string
	// Token is by default a random one.
	Token string
	// Ref is the branch or tag, by default the default branch. Whether it is protected follows from the project.
	Ref string
	// Environment is the expanded name of where the job deploys to; empty: nowhere. Tier replaces the one guessed from the name.
	Environment, Tier string
}

type job struct {
	Job
	project     *Project
	user        *User
	environment *Environment
	finished    bool
}

// AddJob adds a job that runs until FinishJob.
func (g *GitLab) AddJob(j Job) (Job, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := &g.db
	added := &job{Job: j, project: d.project(j.Project), user: d.user(j.User)}
	if added.project == nil {
		return Job{}, fmt.Errorf("project %q: %w", j.Project, ErrNotFound)
	}
	if added.user == nil {
		return Job{}, fmt.Errorf("user %q: %w", j.User, ErrNotFound)
	}
	if added.ID = d.id(j.ID); d.jobs[added.ID] != nil {
		return Job{}, fmt.Errorf("job id %d is taken", added.ID)
	}
	if added.Pipeline == 0 {
		added.Pipeline = d.id(0)
	}
	if added.Token == "" {
		added.Token = "glcbt-64_" + rand.Text()
	}
	if added.Ref == "" {
		added.Ref = added.project.DefaultBranch
	}
	if j.Environment != "" {
		added.environment = d.environment(added.project, j.Environment, j.Tier)
		added.Tier = added.environment.Tier
	}
	d.jobs[added.ID] = added
	return added.Job, nil
}

// FinishJob ends a job: its token is worth nothing from then on.
func (g *GitLab) FinishJob(id int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.db.jobs[id]
	if j == nil {
		return fmt.Errorf("job %d: %w", id, ErrNotFound)
	}
	j.finished = true
	return nil
}

// EnvironmentOf is the environment of a job, nil if it has none.
func (g *GitLab) EnvironmentOf(jobID int64) *Environment {
	g.mu.Lock()
	defer g.mu.Unlock()
	j := g.db.jobs[jobID]
	if j == nil || j.environment == nil {
		return nil
	}
	e := *j.environment
	return &e
}

// environment finds an environment of a project, or adds it.
func (d *database) environment(p *Project, name, tier string) *Environment {
	if d.envs[p.ID] == nil {
		d.envs[p.ID] = map[string]*Environment{}
	}
	e := d.envs[p.ID][name]
	if e == nil {
		e = &Environment{Name: name, Slug: slugOf(name), Tier: guessTier(name)}
		d.envs[p.ID][name] = e
	}
	if tier != "" {
		e.Tier = tier
	}
	return e
}

// runningJob is the job that a token is good for, nil if there is none.
func (d *database) runningJob(token string) *job {
	for _, j := range d.jobs {
		if j.Token == token && !j.finished && !j.user.Blocked {
			return j
		}
	}
	return nil
}

// protected says whether a job's ref is a protected branch or tag.
func (j *job) protected() bool {
	for _, pattern := range j.project.ProtectedRefs {
		if pattern == j.Ref {
			return true
		}
		if strings.Contains(pattern, "*") {
			// Slashes are ordinary characters in these patterns, so both sides go without them.
			flat := strings.NewReplacer("/", "\x00", "[", `\[`, "?", `\?`)
			if matched, err := path.Match(flat.Replace(pattern), strings.ReplaceAll(j.Ref, "/", "\x00")); err == nil && matched {
				return true
			}
		}
	}
	return false
}
