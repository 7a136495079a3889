package line

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// startLimit bounds a start. A machine that compiles at the same time may be ten times slower than usual.
	startLimit = 90 * time.Second
	// stopPatience is how long Stop lets a daemon end by itself.
	stopPatience = 10 * time.Second
	// startAttempts is how often other ports are tried when somebody took ours.
	startAttempts = 3
)

// Line is a running line. Its exported fields do not change.
type Line struct {
	// Dir is below which everything of this run is.
	Dir string
	// Replicas are the kas, one if Config does not say otherwise.
	Replicas []*Replica
	// KasFile is the configuration file of the first kas.
	KasFile string
	// Authority signs every certificate of the run.
	Authority *Authority
	// ProxyURL is the Kubernetes proxy as jobs see it, without a slash at the end.
	ProxyURL string
	// AgentAddress is host:port of the agent listener, ProxyAddress that of the Kubernetes proxy, of the first kas.
	AgentAddress, ProxyAddress string

	cfg              Config
	temporary        bool
	certificate, key string
	repositories     *repositories
	idle             []func() // closes idle connections of clients handed out

	// mu guards what changes while the line runs.
	mu           sync.Mutex
	agents       map[string]*process
	clusterToken map[string]string // the agent's ServiceAccount token, by agent name
	kubeconfigs  map[string]string // path, by agent name
}

// Start brings a line up and returns when both daemons are ready, every agent that is not Manual is connected, and every job has its
// kubeconfig. ctx bounds the start, not the life: that ends with Stop, or with this process.
func Start(ctx context.Context, cfg Config) (*Line, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if cfg.Binaries == (Binaries{}) {
		var err error
		if cfg.Binaries, err = Build(ctx); err != nil {
			return nil, err
		}
	}
	for attempt := 1; ; attempt++ {
		l, err := start(ctx, cfg)
		if err == nil {
			return l, nil
		}
		if attempt == startAttempts || !portTaken(err) {
			return nil, fmt.Errorf("start line: %w", err)
		}
	}
}

func start(ctx context.Context, cfg Config) (*Line, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	l := &Line{cfg: cfg, agents: map[string]*process{}, clusterToken: map[string]string{}, kubeconfigs: map[string]string{}}
	err := l.prepare(ctx)
	if err == nil {
		err = l.run(ctx)
	}
	if err != nil {
		l.Stop()
		return nil, err
	}
	return l, nil
}

// prepare writes everything the daemons read.
func (l *Line) prepare(ctx context.Context) error {
	if err := l.makeDir(); err != nil {
		return err
	}
	if err := l.addReplicas(); err != nil {
		return err
	}
	l.KasFile, l.AgentAddress, l.ProxyAddress = l.Replicas[0].File, l.Replicas[0].AgentAddress, l.Replicas[0].ProxyAddress
	scheme, front := "https://", l.ProxyAddress
	if l.cfg.PlainProxy {
		scheme = "http://"
	}
	if l.cfg.ProxyFront != "" {
		front = l.cfg.ProxyFront
	}
	l.ProxyURL = scheme + front + prefix[:len(prefix)-1]
	var err error
	if l.Authority, err = NewAuthority(l.Dir); err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	hosts := append([]string{l.cfg.Host, "127.0.0.1", "localhost"}, l.cfg.Hosts...)
	slices.Sort(hosts)
	if l.certificate, l.key, err = l.Authority.Issue("kas", slices.Compact(hosts)...); err != nil {
		return err
	}
	if err := l.makeRepositories(ctx); err != nil {
		return err
	}
	for i := range l.cfg.Agents {
		if err := l.makeAgent(ctx, &l.cfg.Agents[i]); err != nil {
			return fmt.Errorf("agent %s: %w", l.cfg.Agents[i].Name, err)
		}
	}
	return l.writeKasFiles()
}

func (l *Line) makeDir() error {
	l.temporary = l.cfg.Dir == ""
	var err error
	if l.temporary {
		l.Dir, err = os.MkdirTemp("", "agentk-line-")
	} else {
		l.Dir, err = filepath.Abs(l.cfg.Dir)
	}
	if err != nil {
		return err
	}
	for _, sub := range []string{"logs", "homes", "kubeconfigs", "tokens"} {
		if err := os.MkdirAll(l.path(sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (l *Line) makeRepositories(ctx context.Context) error {
	var err error
	if l.repositories, err = newRepositories(ctx, l.Dir); err != nil {
		return err
	}
	for _, a := range l.cfg.Agents {
		for _, project := range append([]string{a.Project}, a.GitOpsProjects...) {
			if err := l.repositories.create(ctx, project); err != nil {
				return err
			}
		}
		if a.Config == "" {
			continue
		}
		if _, err := l.repositories.push(ctx, a.Project, map[string]string{configPath(a.Name): a.Config}); err != nil {
			return err
		}
	}
	return nil
}

// run starts the daemons and writes the jobs' kubeconfigs.
func (l *Line) run(ctx context.Context) error {
	for _, r := range l.Replicas {
		if err := r.Start(ctx); err != nil {
			return err
		}
	}
	for _, a := range l.cfg.Agents {
		if a.Manual {
			continue
		}
		if err := l.StartAgent(ctx, a.Name); err != nil {
			return err
		}
	}
	for _, j := range l.cfg.Jobs {
		if err := l.WriteKubeconfig(ctx, j.ID); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends all processes, waits for them, and removes what Start wrote to a temporary folder. It may be called more than once.
func (l *Line) Stop() {
	l.mu.Lock()
	processes := []*process{}
	for _, p := range l.agents {
		processes = append(processes, p)
	}
	for _, r := range l.Replicas {
		if r.process != nil {
			processes = append(processes, r.process)
		}
	}
	idle := l.idle
	l.mu.Unlock()
	for _, closeIdle := range idle {
		closeIdle()
	}
	var ends sync.WaitGroup
	for _, p := range processes {
		ends.Go(func() { p.end(stopPatience) })
	}
	ends.Wait()
	if l.temporary {
		_ = os.RemoveAll(l.Dir)
	}
}

// Update changes agents, jobs and projects while kas runs, and writes its configuration file, which kas then reads again. New jobs and
// agents need what complete fills in: tokens.
func (l *Line) Update(change func(*Config)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.cfg)
	return l.writeKasFiles()
}

// PushConfig pushes a new configuration file of an agent with git, and returns the commit. An empty content removes the file.
func (l *Line) PushConfig(ctx context.Context, agent, content string) (string, error) {
	a, err := l.agent(agent)
	if err != nil {
		return "", err
	}
	return l.repositories.push(ctx, a.Project, map[string]string{configPath(agent): content})
}

// Push commits files of a project (by path; an empty content removes the file), pushes them with git to its default branch, and returns
// the commit. A project without a repository gets one.
func (l *Line) Push(ctx context.Context, project string, files map[string]string) (string, error) {
	if err := l.repositories.create(ctx, project); err != nil {
		return "", err
	}
	return l.repositories.push(ctx, project, files)
}

// Git runs git in the clone of a project and returns what it prints.
func (l *Line) Git(ctx context.Context, project string, args ...string) (string, error) {
	return l.repositories.run(ctx, l.CloneDir(project), args...)
}

// RepositoryDir is the bare repository of a project.
func (l *Line) RepositoryDir(project string) string {
	return filepath.Join(l.repositories.dir, project+".git")
}

// CloneDir is the work tree that a project's changes are pushed from.
func (l *Line) CloneDir(project string) string { return l.repositories.clone(project) }

func (l *Line) path(name string) string { return filepath.Join(l.Dir, name) }

// agent returns how an agent is configured now.
func (l *Line) agent(name string) (Agent, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.cfg.Agents {
		if a.Name == name {
			return a, nil
		}
	}
	return Agent{}, fmt.Errorf("line: no agent %q", name)
}

// job returns what a job is now.
func (l *Line) job(id int64) (Job, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.cfg.Jobs {
		if j.ID == id {
			return j, nil
		}
	}
	return Job{}, fmt.Errorf("line: no job %d", id)
}

// onUnix is an HTTP client whose every connection goes to a unix socket.
func onUnix(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

var errNotRunning = errors.New("it does not run")
