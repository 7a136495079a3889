package agent

import (
	"context"
	"errors"
	"fmt"

	"gitlab.com/agentk/agentk/api/agentcfg"
)

// identity is which agent this process is, and of which GitLab. The first configuration decides, of the GitLab the first that tells it:
// inventories, leases and names of other objects in the cluster are made from it, so that a later change needs a new process.
type identity struct {
	known       chan struct{} // closed after agentID is set
	agentID     int64
	externalURL string // "" until it was told; only pin uses it
}

func newIdentity() *identity { return &identity{known: make(chan struct{})} }

// pin takes the first values and refuses others. Only one goroutine calls it.
func (i *identity) pin(cfg *agentcfg.AgentConfiguration) error {
	select {
	case <-i.known:
	default:
		if cfg.AgentId == 0 {
			return errors.New("kas sent a configuration without an agent id")
		}
		i.agentID, i.externalURL = cfg.AgentId, cfg.GitlabExternalUrl
		close(i.known)
		return nil
	}
	if cfg.AgentId != i.agentID {
		return fmt.Errorf("the agent id changed from %d to %d: the configuration is ignored until this pod is restarted", i.agentID, cfg.AgentId)
	}
	switch told := cfg.GitlabExternalUrl; {
	case told == "": // a server before 15.11 does not tell
	case i.externalURL == "":
		i.externalURL = told
	case told != i.externalURL:
		return fmt.Errorf("the external URL of GitLab changed from %q to %q: the configuration is ignored until this pod is restarted",
			i.externalURL, told)
	}
	return nil
}

func (i *identity) wait(ctx context.Context) (int64, error) {
	select {
	case <-i.known:
		return i.agentID, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the first configuration: %w", ctx.Err())
	}
}
