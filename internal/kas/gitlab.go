package kas

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/gitaly"
	"gitlab.com/agentk/agentk/internal/gitlab"
	"gitlab.com/agentk/agentk/internal/listen"
	"gitlab.com/agentk/agentk/internal/railsapi"
	"gitlab.com/agentk/agentk/internal/usage"
)

const (
	// maxRefresh is how long GitLab may go without being asked about a connected agent: after 8 minutes its pages say that the
	// agent is not connected.
	maxRefresh = 5 * time.Minute
	// minRefresh protects GitLab from a cache time of next to nothing.
	minRefresh = time.Second
)

// newGitLab makes the clients of Rails and Gitaly, and what reports to Rails.
func (s *server) newGitLab() (world, error) {
	cf := s.file.Gitlab
	rails, err := gitlab.New(gitlab.Config{
		Address: cf.Address, SecretFile: cf.AuthenticationSecretFile, CAFile: cf.CaCertificateFile,
		RateLimit: gitlab.RateLimit{PerSecond: cf.ApiRateLimit.RefillRatePerSecond, Burst: int(cf.ApiRateLimit.BucketSize)},
		Log:       s.named("gitlab"), Registerer: s.registry,
	})
	if err != nil {
		return world{}, err
	}
	git, err := gitaly.New(gitaly.Config{
		Global: gitalyLimit(s.file.Gitaly.GlobalApiRateLimit), PerServer: gitalyLimit(s.file.Gitaly.PerServerApiRateLimit),
		Log: s.named("gitaly"), Registerer: s.registry,
	})
	if err != nil {
		return world{}, err
	}
	s.rails.files = configFiles{git}
	s.usage, err = usage.New(usage.Config{
		Reporter: rails, Old: rails.Old, Log: s.named("usage_metrics"), Registerer: s.registry,
		UsagePeriod: s.file.Observability.UsageReportingPeriod.AsDuration(),
		EventPeriod: s.file.Observability.EventReportingPeriod.AsDuration(),
	})
	if err != nil {
		git.Close()
		return world{}, err
	}
	posts := newPosts(rails, s.named("agent_configuration"))
	agent := s.file.Agent
	return world{
		agents: rails, repository: git, projects: gitlabProjects{rails}, manifests: git, projectTTL: agent.Gitops.ProjectInfoCacheTtl.AsDuration(),
		jobs: rails, users: rails, modules: rails, configured: posts.configured,
		cacheTTL: agent.InfoCacheTtl.AsDuration(), errorTTL: agent.InfoCacheErrorTtl.AsDuration(),
		refreshPeriod: refreshPeriod(agent.InfoCacheTtl.AsDuration()),
		run: func(ctx context.Context) error {
			var group errgroup.Group
			group.Go(func() error { return posts.run(ctx) })
			group.Go(func() error { return s.usage.Run(ctx) })
			return group.Wait()
		},
		close: func() {
			git.Close()
			rails.Close()
		},
	}, nil
}

// refreshPeriod is how often GitLab is asked about a connected agent: a revoked token is cut off within the time for which
// answers are believed.
func refreshPeriod(ttl time.Duration) time.Duration {
	if ttl == 0 {
		return maxRefresh
	}
	return min(max(ttl, minRefresh), maxRefresh)
}

func gitalyLimit(cf *kascfg.TokenBucketRateLimitCF) gitaly.RateLimit {
	return gitaly.RateLimit{PerSecond: cf.RefillRatePerSecond, Burst: int(cf.BucketSize)}
}

// configFiles is what the API for Rails asks of Gitaly.
type configFiles struct{ git *gitaly.Client }

func (f configFiles) AgentConfigFiles(ctx context.Context, p backend.Project) ([]railsapi.ConfigFile, error) {
	found, err := f.git.AgentConfigFiles(ctx, p)
	if err != nil {
		return nil, err
	}
	files := make([]railsapi.ConfigFile, len(found))
	for i, one := range found {
		files[i] = railsapi.ConfigFile{Path: one.Path, Agent: one.Agent}
	}
	return files, nil
}

// newRailsAPI opens the listener for Rails. Without a GitLab there is nobody to call it.
func (s *server) newRailsAPI(ctx context.Context) error {
	cf := s.file.GetApi().GetListen()
	if s.cfg.Standalone() || cf == nil {
		return nil
	}
	ln, err := s.listen(ctx, listen.Config{Network: cf.GetNetwork(), Address: cf.Address})
	if err != nil {
		return err
	}
	s.rails.addr = ln.Addr()
	api := railsapi.Config{
		Listener: ln, SecretFile: cf.AuthenticationSecretFile, Agents: s.store, Events: s.store, ConfigFiles: s.rails.files,
		MaxConnectionAge: cf.MaxConnectionAge.AsDuration(), ListenGracePeriod: cf.ListenGracePeriod.AsDuration(),
		Log: s.named("api_server"), Registerer: s.registry,
	}
	if cf.CertificateFile != "" {
		if api.TLS, err = listen.ServerTLS(cf.CertificateFile, cf.KeyFile, nil, s.log); err != nil {
			return err
		}
	}
	s.rails.server, err = railsapi.New(api)
	return err
}

func (s *server) runRailsAPI(ctx context.Context) error {
	if s.rails.server == nil {
		return nil
	}
	defer s.serving(ctx, apiServer)()
	return s.rails.server.Run(ctx)
}

// checkEnvironment finds variables that contradict the configuration.
func (s *server) checkEnvironment(context.Context) error {
	return s.cfg.CheckEnvironment(s.getenv)
}
