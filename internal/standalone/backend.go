// Package standalone lets kas stand beside no GitLab at all. Section "standalone" of the kas configuration file names the
// projects, agents and CI jobs, and a folder of bare git repositories holds the agents' configuration; from these the package
// answers every question that GitLab Rails and Gitaly answer elsewhere, by the same rules.
//
// Only SHA-256 sums of tokens are on disk and in memory. Whenever a decision cannot be made (an agent's configuration was never
// read successfully, its branch is gone, a section is invalid) the package decides against access or keeps the last good state;
// it never falls back to the unrestricted access that a missing configuration file grants to its own project.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// allowedAgentsPath is the GitLab endpoint whose answers this package gives; errors name it as they do beside a GitLab.
const allowedAgentsPath = "/api/v4/job/allowed_agents"

// Config is what a Backend is made of.
type Config struct {
	// File is the section to start with. Required.
	File *kascfg.StandaloneCF
	// Parse reads an agent configuration file strictly. Required.
	Parse func(data []byte) (*agentcfg.ConfigurationFile, error)
	// MaxConfigFileSize bounds an agent configuration file, in bytes. Default: 131072.
	MaxConfigFileSize int64
	// ConfigPath is the kas configuration file to watch. Empty: the section never changes.
	ConfigPath string
	// Reload reads the kas configuration file again and returns its validated section. Required with ConfigPath.
	Reload func() (*kascfg.StandaloneCF, error)
	// OnPush is called with the full path of a project whose default branch moved. It must not block. May be nil.
	OnPush func(projectPath string)
	// Log is where reloads and unreadable agent configurations are reported. Default: nowhere.
	Log *zap.Logger
	// Registerer takes the metrics. Nil: none are registered.
	Registerer prometheus.Registerer
	// Now tells the time that expiry is measured against. Default: time.Now.
	Now func() time.Time
}

func (c *Config) setDefaults() error {
	switch {
	case c.File == nil:
		return errors.New("standalone backend: File is missing")
	case c.Parse == nil:
		return errors.New("standalone backend: Parse is missing")
	case c.ConfigPath != "" && c.Reload == nil:
		return errors.New("standalone backend: ConfigPath without Reload")
	}
	if c.MaxConfigFileSize <= 0 {
		c.MaxConfigFileSize = 128 << 10
	}
	if c.OnPush == nil {
		c.OnPush = func(string) {}
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Backend is the outside world of a kas without GitLab. All methods may be called from several goroutines at once.
type Backend struct {
	cfg     Config
	section atomic.Pointer[section]
	repos   *repositories
	configs *agentConfigs
	changed broadcast
	// reloaded wakes the repository watcher after a new section went live.
	reloaded chan struct{}
	valid    prometheus.Gauge
	// heads is what the repository watcher saw last; after New only that watcher uses it.
	heads map[string]headState
}

// New checks the section and remembers where the default branches are now. Changes are noticed only while Run runs.
func New(cfg Config) (*Backend, error) {
	b, err := newBackend(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Registerer != nil {
		err = cfg.Registerer.Register(b.valid)
		if err != nil {
			return nil, fmt.Errorf("register metrics of the standalone backend: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), firstScanTimeout)
	defer cancel()
	b.rememberHeads(ctx)
	return b, nil
}

func newBackend(cfg Config) (*Backend, error) {
	err := cfg.setDefaults()
	if err != nil {
		return nil, err
	}
	sec, err := newSection(cfg.File)
	if err != nil {
		return nil, err
	}
	b := &Backend{
		cfg:      cfg,
		repos:    newRepositories(),
		reloaded: make(chan struct{}, 1),
		heads:    map[string]headState{},
		valid: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_standalone_config_valid",
			Help: "1 if the standalone section now in the configuration file is live, 0 if it is invalid and an older one is kept",
		}),
	}
	b.configs = newAgentConfigs(b.repos, cfg.Parse, cfg.MaxConfigFileSize, cfg.Log)
	b.section.Store(sec)
	b.valid.Set(1)
	return b, nil
}

// Run watches the configuration file, the repositories and the expiry of jobs until ctx ends. It returns nil then.
func (b *Backend) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { b.watchConfig(ctx); return nil })
	g.Go(func() error { b.watchRepositories(ctx); return nil })
	g.Go(func() error { b.watchExpiry(ctx); return nil })
	g.Go(func() error { b.followConfigs(ctx); return nil })
	return g.Wait()
}

// followConfigs reads the configuration of every agent when it may have changed. The last good one is then known when a bad one
// follows, also if no job asked in between.
func (b *Backend) followConfigs(ctx context.Context) {
	for {
		changed := b.changed.next() // before the look, so that no change is missed
		sec := b.section.Load()
		heads := heads{}
		for _, a := range sec.agents {
			h := heads.of(ctx, b.repos, sec, a.project)
			if ctx.Err() != nil {
				return
			}
			b.configs.load(ctx, sec, a, h.commit, h.err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Changed returns a channel that is closed at the next change of agents, tokens, jobs or default branches. The caller asks for
// the channel first, then reads the state, so that no change falls between.
func (b *Backend) Changed() <-chan struct{} { return b.changed.next() }

// AgentByToken finds the agent that a token stands for. An unknown or revoked token is a fault of kind Unauthenticated.
func (b *Backend) AgentByToken(_ context.Context, token string) (backend.Agent, error) {
	a := b.section.Load().agentsByToken[sumToken(token)]
	if a == nil {
		return backend.Agent{}, fault.New(fault.Unauthenticated, fault.Kas, "unauthenticated: this agent token is unknown or "+
			"revoked, its SHA-256 is in no token_sha256 of the agents in section standalone of the kas configuration file")
	}
	return a.value(), nil
}

// AllowedAgents answers which agents the job with this token may use and what is known about the job, as GitLab would. A token
// that is unknown or has expired is a fault of kind Unauthenticated; Canceled or DeadlineExceeded if ctx ended first.
func (b *Backend) AllowedAgents(ctx context.Context, jobToken string) (*gitlabapi.AllowedAgentsForJob, error) {
	sec := b.section.Load()
	j := sec.jobsByToken[sumToken(jobToken)]
	if j == nil || j.expired(b.cfg.Now()) {
		return nil, fault.New(fault.Unauthenticated, fault.Kas, "HTTP status code: 401 for path %s", allowedAgentsPath)
	}
	grants, err := b.grants(ctx, sec, j)
	if err != nil {
		return nil, err
	}
	res := j.describe()
	for _, g := range grants {
		res.AllowedAgents = append(res.AllowedAgents, &gitlabapi.AllowedAgent{
			Id:            g.agent.id,
			ConfigProject: &gitlabapi.ConfigProject{Id: g.agent.project.id},
			Configuration: g.configuration(),
		})
	}
	return res, nil
}

func (b *Backend) grants(ctx context.Context, sec *section, j *job) ([]grant, error) {
	candidates, err := b.configs.candidates(ctx, sec, j)
	if err != nil {
		return nil, fmt.Errorf("read agent configurations for job %d: %w", j.id, err)
	}
	return match(candidates, j, sec.file.GetAnyNamespace()), nil
}

// Head returns the commit that the default branch of a project points to, "" for an empty repository. Faults: NotFound if the
// project, its repository or the branch does not exist, Unavailable if it cannot be read now.
func (b *Backend) Head(ctx context.Context, p backend.Project) (string, error) {
	sec := b.section.Load()
	known, err := sec.project(p.Path)
	if err != nil {
		return "", err
	}
	return b.repos.head(ctx, sec.root(), known.path, p.DefaultBranch)
}

// File returns a regular file of at most limit bytes as it is in a commit. Faults: NotFound if the commit has no such file,
// FailedPrecondition if it is too big or no regular file, Unavailable if it cannot be read now.
func (b *Backend) File(ctx context.Context, p backend.Project, commit, path string, limit int64) ([]byte, error) {
	sec := b.section.Load()
	known, err := sec.project(p.Path)
	if err != nil {
		// Not NotFound: that would read as "the file is absent, the configuration is empty".
		return nil, fault.Wrap(fault.Unavailable, fault.Git, err, "read %s", path)
	}
	return b.repos.file(ctx, sec.root(), known.path, commit, path, limit)
}

// broadcast wakes any number of waiters at once. The zero value is ready to use.
type broadcast struct {
	// mu guards ch.
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) fire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
