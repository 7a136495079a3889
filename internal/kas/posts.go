package kas

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/agentcfg"
	configserver "gitlab.com/agentk/agentk/internal/agentconfig/server"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/gitlab"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

const (
	// postAgain is how often configurations that GitLab did not take are posted again.
	postAgain = 30 * time.Second
	// maxPosts bounds the configurations that wait for that.
	maxPosts = 20_000
)

// poster is GitLab, which decides about access by what it is told here.
type poster interface {
	PostConfiguration(ctx context.Context, agentID int64, file *agentcfg.ConfigurationFile) error
}

// posts tells GitLab the configuration that agents got: the newest of each agent, one at a time, again until GitLab has taken it.
// Until then GitLab would go on granting what the old configuration grants.
type posts struct {
	gitlab poster
	log    *zap.Logger

	// mu guards waiting: the agents with something to post or being posted.
	mu      sync.Mutex
	waiting map[int64]*post
}

// post is the state of one agent. file is the newest; fresh says that nobody posts it yet; busy, that somebody posts for this
// agent and will look at fresh afterwards.
type post struct {
	file        *agentcfg.ConfigurationFile
	fresh, busy bool
}

func newPosts(gitlab poster, log *zap.Logger) *posts {
	return &posts{gitlab: gitlab, log: log, waiting: map[int64]*post{}}
}

// configured posts the configuration that an agent got.
func (p *posts) configured(ctx context.Context, agent backend.Agent, file *agentcfg.ConfigurationFile) {
	for _, list := range gitlab.OverCap(file) {
		p.log.Warn("A list of the agent's configuration is longer than GitLab uses: "+list,
			zap.Int64(telemetry.AgentID, agent.ID), zap.String(telemetry.ProjectID, agent.Project.Path))
	}
	p.mu.Lock()
	one := p.waiting[agent.ID]
	if one == nil {
		if len(p.waiting) >= maxPosts {
			p.mu.Unlock()
			p.log.Error("Configuration is not posted to GitLab: too many wait already", zap.Int64(telemetry.AgentID, agent.ID))
			return
		}
		one = &post{}
		p.waiting[agent.ID] = one
	}
	one.file, one.fresh = file, true
	p.mu.Unlock()
	p.post(ctx, agent.ID)
}

// post posts what is waiting of an agent, unless somebody else does.
func (p *posts) post(ctx context.Context, agentID int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.waiting[agentID]
	if one == nil || one.busy {
		return
	}
	one.busy = true
	for one.fresh {
		one.fresh = false
		file := one.file
		p.mu.Unlock()
		err := p.gitlab.PostConfiguration(ctx, agentID, file)
		again := p.explain(agentID, err)
		p.mu.Lock()
		if again {
			one.fresh, one.busy = true, false
			return
		}
	}
	delete(p.waiting, agentID)
}

// explain logs a failure and says whether another attempt makes sense.
func (p *posts) explain(agentID int64, err error) bool {
	if err == nil {
		return false
	}
	id := zap.Int64(telemetry.AgentID, agentID)
	var answer *gitlab.StatusError
	if errors.As(err, &answer) && refusesContent(answer.Code) {
		p.log.Error("GitLab refuses the agent's configuration; access goes by the one before, until there is another", id, zap.Error(err))
		return false
	}
	switch fault.KindOf(err) {
	case fault.NotFound:
		p.log.Debug("Configuration is not posted: GitLab does not know the agent any more", id)
		return false
	case fault.InvalidArgument:
		p.log.Error("Configuration cannot be posted to GitLab", id, zap.Error(err))
		return false
	default:
		p.log.Warn("Configuration could not be posted to GitLab; access goes by the old one until it is", id,
			zap.Duration(telemetry.RetryIn, postAgain), zap.Error(err))
		return true
	}
}

// refusesContent says that an HTTP status is about what was posted: the same again would be refused again.
func refusesContent(code int) bool {
	return code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity
}

// run posts again what GitLab did not take, until ctx ends.
func (p *posts) run(ctx context.Context) error {
	ticker := time.NewTicker(postAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		p.mu.Lock()
		agents := make([]int64, 0, len(p.waiting))
		for id := range p.waiting {
			agents = append(agents, id)
		}
		p.mu.Unlock()
		for _, id := range agents {
			attempt, cancel := context.WithTimeout(ctx, configserver.HookTimeout)
			p.post(attempt, id)
			cancel()
		}
	}
}
