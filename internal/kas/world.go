package kas

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/agentauth"
	"gitlab.com/agentk/agentk/internal/agentconfig"
	configserver "gitlab.com/agentk/agentk/internal/agentconfig/server"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/gitlabaccess"
	gitopsserver "gitlab.com/agentk/agentk/internal/gitops/server"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/standalone"
)

// world is what kas stands beside: a GitLab, or the standalone section of its own file. Every part of kas sees of it only the
// port that it needs.
type world struct {
	agents     agentauth.Backend
	repository configserver.Repository
	// projects says what agents may read beside their configuration, manifests reads it. projectTTL is how long that is believed.
	projects   gitopsserver.Projects
	manifests  gitopsserver.Repository
	projectTTL time.Duration
	jobs       k8sproxy.JobAuthorizer
	modules    gitlabaccess.Modules
	// users is nil where nobody knows users.
	users k8sproxy.UserAuthorizer
	// changes is nil where nobody tells of changes: answers are believed for cacheTTL and refusals for errorTTL then, and asked
	// for again every refreshPeriod.
	changes                           configserver.Changes
	cacheTTL, errorTTL, refreshPeriod time.Duration
	// configured hears of every configuration that an agent gets; nil: nobody does.
	configured func(context.Context, backend.Agent, *agentcfg.ConfigurationFile)
	// run does what has to go on in the background.
	run func(context.Context) error
	// close is called when nobody uses any of it any more; nil: there is nothing to close.
	close func()
}

// publishLimit bounds how long a push is told to the other replicas, so that the next one is noticed.
const publishLimit = 2 * time.Second

func (s *server) newWorld(context.Context) error {
	var err error
	if s.cfg.Standalone() {
		s.world, err = s.newStandalone()
	} else {
		s.world, err = s.newGitLab()
	}
	return err
}

// newStandalone answers from memory: nothing is gained by believing an older answer.
func (s *server) newStandalone() (world, error) {
	b, err := standalone.New(standalone.Config{
		File: s.file.Standalone, Parse: agentconfig.Parse, ConfigPath: s.cfg.Path,
		MaxConfigFileSize: int64(s.file.Agent.Configuration.MaxConfigurationFileSize),
		Reload: func() (*kascfg.StandaloneCF, error) {
			// The command that the file may name has a deadline of its own.
			cfg, err := config.Load(context.Background(), s.cfg.Path)
			if err != nil {
				return nil, err
			}
			return cfg.File.Standalone, nil
		},
		OnPush: func(project string) {
			// What a shared store does not take now it is told again later, by the store itself.
			ctx, cancel := context.WithTimeout(context.Background(), publishLimit)
			defer cancel()
			_ = s.store.Publish(ctx, project)
		},
		Log: s.named("standalone"), Registerer: s.registry,
	})
	if err != nil {
		return world{}, err
	}
	return world{
		agents: b, repository: b, projects: b, manifests: b, jobs: b, changes: b, modules: gitlabaccess.NoGitLab{}, run: b.Run,
	}, nil
}

// originOf is how browsers name the site of a URL: without path, user, and the scheme's own port.
func originOf(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("gitlab.external_url is not a URL with a host")
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if port := u.Port(); port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return scheme + "://" + host, nil
}
