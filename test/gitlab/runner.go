package gitlab

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Runner is a CI runner with the shell executor: it runs the jobs of a pipeline one after the other.
type Runner struct {
	GitLab *GitLab
	// Env is added to the environment of jobs, for example PATH.
	Env []string
	// CAFile is for git, when GitLab speaks HTTPS.
	CAFile string
	// Out also gets the log of jobs as it grows; nil: nobody.
	Out io.Writer
}

// PipelineRequest says what to run.
type PipelineRequest struct {
	// Project and Ref say where the .gitlab-ci.yml is; Ref is by default the default branch.
	Project, Ref string
	// User is on whose behalf it runs.
	User string
	// JobIDs are the ids of jobs by name; by default fresh ones.
	JobIDs map[string]int64
}

// JobResult is a job that ran.
type JobResult struct {
	Job Job
	// Log is what it wrote, without secrets. ExitCode is that of its script.
	Log      string
	ExitCode int
}

// Pipeline is a pipeline that ran.
type Pipeline struct {
	ID     int64
	Commit string
	Jobs   []JobResult
}

// ErrJobFailed says that a job's script failed. Later stages do not run then.
var ErrJobFailed = errors.New("job failed")

// Run runs the pipeline of a commit. A failing job is ErrJobFailed; the result tells all that ran.
func (r *Runner) Run(ctx context.Context, request PipelineRequest) (*Pipeline, error) {
	g := r.GitLab
	p, err := g.projectOf(request.Project)
	if err != nil {
		return nil, err
	}
	if request.Ref == "" {
		request.Ref = p.DefaultBranch
	}
	dir := g.repositoryDir(p)
	commit, err := g.git.run(ctx, dir, nil, "rev-parse", "--verify", "--end-of-options", request.Ref+"^{commit}")
	if err != nil {
		return nil, err
	}
	content, err := g.git.run(ctx, dir, nil, "cat-file", "blob", commit+":"+ciFile)
	if err != nil {
		return nil, err
	}
	plan, err := readPlan([]byte(content))
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	pipeline := &Pipeline{ID: g.db.id(0), Commit: commit}
	g.mu.Unlock()
	failedStage := ""
	for _, planned := range plan.jobs {
		if failedStage != "" && planned.Stage != failedStage {
			break
		}
		result, err := r.runJob(ctx, request, pipeline, plan, planned)
		if err != nil {
			return pipeline, fmt.Errorf("job %s: %w", planned.name, err)
		}
		pipeline.Jobs = append(pipeline.Jobs, *result)
		if result.ExitCode != 0 && !planned.AllowFailure {
			failedStage = planned.Stage
		}
	}
	if failedStage != "" {
		return pipeline, fmt.Errorf("stage %s: %w", failedStage, ErrJobFailed)
	}
	return pipeline, nil
}

func (r *Runner) runJob(ctx context.Context, request PipelineRequest, pipeline *Pipeline, plan *plan, planned plannedJob) (*JobResult, error) {
	g := r.GitLab
	variables := r.ownVariables(request, pipeline, plan, planned)
	added, err := g.AddJob(Job{
		ID: request.JobIDs[planned.name], Pipeline: pipeline.ID, Name: planned.name, Project: request.Project, User: request.User,
		Ref: request.Ref, Environment: os.Expand(planned.Environment.Name, variables.get), Tier: planned.Environment.Tier,
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = g.FinishJob(added.ID) }() // it is there
	build, err := r.checkOut(ctx, &added, pipeline.Commit)
	if err != nil {
		return nil, err
	}
	if err := r.jobVariables(variables, &added, build, planned); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(build + ".tmp") }() // file variables live as long as their job
	result := &JobResult{Job: added}
	log := &maskedLog{secret: added.Token, also: r.Out}
	result.ExitCode, err = r.shell(ctx, build, variables, log, append(append(lines{}, pick(planned.BeforeScript, plan.before)...), planned.Script...))
	if err == nil && len(planned.AfterScript) > 0 {
		_, err = r.shell(ctx, build, variables, log, planned.AfterScript)
	}
	result.Log = log.String()
	return result, err
}

func pick(first, second lines) lines {
	if first != nil {
		return first
	}
	return second
}

// checkOut fetches the commit into a work tree of the job.
func (r *Runner) checkOut(ctx context.Context, j *Job, commit string) (string, error) {
	g := r.GitLab
	build := filepath.Join(g.path("builds"), fmt.Sprint(j.ID), filepath.FromSlash(j.Project))
	if err := os.MkdirAll(build, 0o700); err != nil {
		return "", err
	}
	header := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("gitlab-ci-token:"+j.Token))
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"fetch", "--quiet", "--depth=1", g.URL + "/" + j.Project + ".git", commit},
		{"checkout", "--quiet", "FETCH_HEAD"},
	} {
		cmd := exec.CommandContext(ctx, g.git.program, args...)
		cmd.Dir, cmd.WaitDelay = build, killDelay
		cmd.Env = append(g.git.environment(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0="+header)
		if r.CAFile != "" {
			cmd.Env = append(cmd.Env, "GIT_SSL_CAINFO="+r.CAFile)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
		}
	}
	return build, nil
}

// shell runs commands as one script that ends at the first failure, and returns its exit code.
func (r *Runner) shell(ctx context.Context, build string, variables *variables, log *maskedLog, commands lines) (int, error) {
	program, options := "sh", "set -e\n"
	if bash, err := exec.LookPath("bash"); err == nil {
		program, options = bash, "set -eo pipefail\n"
	}
	var script strings.Builder
	script.WriteString(options)
	for _, c := range commands {
		shown := strings.ReplaceAll(c, "'", `'\''`)
		fmt.Fprintf(&script, "printf '%%s\\n' '$ %s'\n%s\n", shown, c)
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = build, strings.NewReader(script.String()), log, log, killDelay
	cmd.Env = append([]string{"HOME=" + r.GitLab.path("home"), "PATH=" + os.Getenv("PATH")}, r.Env...)
	for _, name := range variables.names {
		cmd.Env = append(cmd.Env, name+"="+variables.values[name])
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// maskedLog is the log of a job, with its secret hidden line by line.
type maskedLog struct {
	secret string
	also   io.Writer

	// mu guards the rest: standard output and standard error come at the same time.
	mu   sync.Mutex
	all  bytes.Buffer
	rest bytes.Buffer
}

func (l *maskedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest.Write(p)
	for {
		end := bytes.IndexByte(l.rest.Bytes(), '\n')
		if end < 0 {
			return len(p), nil
		}
		if err := l.put(string(l.rest.Next(end + 1))); err != nil {
			return 0, err
		}
	}
}

func (l *maskedLog) put(line string) error {
	line = strings.ReplaceAll(line, l.secret, "[MASKED]")
	l.all.WriteString(line)
	if l.also == nil {
		return nil
	}
	_, err := io.WriteString(l.also, line)
	return err
}

// String is the whole log.
func (l *maskedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String() + strings.ReplaceAll(l.rest.String(), l.secret, "[MASKED]")
}
