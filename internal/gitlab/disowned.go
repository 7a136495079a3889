package gitlab

import (
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	// disownedMark is in GitLab's refusal of a request that does not prove to come from kas.
	disownedMark = "KAS JWT authentication invalid"
	// disownedEvery is how often the operator is told.
	disownedEvery = time.Minute
)

// disowned is the failure of a call that GitLab does not believe to come from kas. It says nothing about the agent or the user
// whom the call is about: taken for a refusal of theirs, a secret that is changed on one side first would cut off all agents.
func (c *Client) disowned(q *call) error {
	c.complain.Do(func() {
		c.cfg.Log.Error("GitLab does not believe that requests come from kas, so nobody new can be let in. "+
			"Either gitlab.authentication_secret_file holds another secret than GitLab's, or one of the two clocks is wrong",
			zap.String("file", c.signer.path), zap.Time("time_of_kas", time.Now().UTC()))
	})
	return fault.New(fault.Unavailable, fault.GitLab, "GitLab does not accept the proof of kas' identity for path %s", q.path)
}
