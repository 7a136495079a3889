package standalone

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/fault"
)

// agentConfigs keeps the ci_access part of every agent's configuration file as of the head of its project's default branch.
type agentConfigs struct {
	repos   *repositories
	parse   func([]byte) (*agentcfg.ConfigurationFile, error)
	maxSize int64
	log     *zap.Logger

	// mu guards known. Files are read outside of it.
	mu    sync.Mutex
	known map[agentKey]agentConfig
}

// agentKey changes with everything that decides where the configuration is, so that no state survives a move.
type agentKey struct {
	id                  int64
	name, project, root string
}

type agentConfig struct {
	// commit was the last one that could be judged, good or bad; judged tells that there was one at all.
	commit string
	judged bool
	// good tells that ciAccess is from a valid file (or from none, which is valid too).
	good     bool
	ciAccess *agentcfg.CiAccessCF
	// complaint is what was logged last, to say it once only.
	complaint string
}

func newAgentConfigs(
	repos *repositories, parse func([]byte) (*agentcfg.ConfigurationFile, error), maxSize int64, log *zap.Logger,
) *agentConfigs {
	return &agentConfigs{repos: repos, parse: parse, maxSize: maxSize, log: log, known: map[agentKey]agentConfig{}}
}

// heads are those of the default branches in one look at all agents: each project's is read once.
type heads map[*project]headRead

type headRead struct {
	commit string
	err    error
}

func (h heads) of(ctx context.Context, repos *repositories, sec *section, p *project) headRead {
	known, ok := h[p]
	if !ok {
		known.commit, known.err = repos.head(ctx, sec.root(), p.path, "")
		h[p] = known
	}
	return known
}

// candidates reads the configuration of each agent that a job could possibly use. It fails only when ctx ends: half an answer
// must not pass for a whole one.
func (c *agentConfigs) candidates(ctx context.Context, sec *section, j *job) ([]candidate, error) {
	heads := heads{}
	var res []candidate
	for _, a := range sec.agents {
		if a.project != j.project && !inNamespace(a, j, sec.file.GetAnyNamespace()) {
			continue
		}
		h := heads.of(ctx, c.repos, sec, a.project)
		cfg := c.load(ctx, sec, a, h.commit, h.err)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if cfg.good {
			res = append(res, candidate{agent: a, ciAccess: cfg.ciAccess})
		}
	}
	return res, nil
}

// load brings the configuration of one agent up to the head of its project's default branch.
func (c *agentConfigs) load(ctx context.Context, sec *section, a *agent, head string, headErr error) agentConfig {
	key := agentKey{id: a.id, name: a.name, project: a.project.path, root: sec.root()}
	c.mu.Lock()
	old := c.known[key]
	c.mu.Unlock()
	if headErr == nil && old.judged && old.commit == head {
		return old
	}
	now, err := c.judge(ctx, sec, a, head, headErr, old)
	if ctx.Err() != nil {
		return old
	}
	if err != nil {
		now.complaint = fmt.Sprintf("%s %s", head, err)
	}
	c.mu.Lock()
	c.known[key] = now
	c.mu.Unlock()
	if err != nil && now.complaint != old.complaint {
		c.log.Warn("Agent configuration cannot be used",
			zap.Int64("agent_id", a.id), zap.String("agent_name", a.name), zap.String("project", a.project.path),
			zap.String("commit_id", head), zap.Bool("last_good_kept", now.good), zap.Error(err))
	}
	return now
}

// judge reads the file of one commit. What is no verdict on the file keeps the last good state and is tried again next time;
// a repository or branch that is gone takes the agent away, as deleting a project does in GitLab.
func (c *agentConfigs) judge(
	ctx context.Context, sec *section, a *agent, head string, headErr error, old agentConfig,
) (agentConfig, error) {
	if headErr != nil {
		if fault.KindOf(headErr) == fault.NotFound {
			return agentConfig{}, headErr
		}
		return old, headErr
	}
	good := agentConfig{commit: head, judged: true, good: true}
	if head == "" {
		return good, nil
	}
	data, err := c.repos.file(ctx, sec.root(), a.project.path, head, a.configPath(), c.maxSize)
	switch {
	case err == nil:
	case fault.KindOf(err) == fault.NotFound:
		return good, nil
	case fault.KindOf(err) == fault.FailedPrecondition:
		old.commit, old.judged = head, true
		return old, err
	default:
		old.judged = false
		return old, err
	}
	file, err := c.parse(data)
	if err != nil {
		old.commit, old.judged = head, true
		return old, fmt.Errorf("%s: %w", a.configPath(), err)
	}
	good.ciAccess = file.GetCiAccess()
	return good, nil
}

// forget drops the state of agents that a section does not have.
func (c *agentConfigs) forget(sec *section) {
	keep := map[agentKey]bool{}
	for _, a := range sec.agents {
		keep[agentKey{id: a.id, name: a.name, project: a.project.path, root: sec.root()}] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.known {
		if !keep[key] {
			delete(c.known, key)
		}
	}
}
