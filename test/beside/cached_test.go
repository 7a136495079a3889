package beside

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

// Nothing of what is cached waits for a Rails or a Gitaly that is slow or says nothing at all, whoever else waits for it.
func TestCached_IsNotDelayed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rails  gitlab.Fault
		gitaly gitaly.Fault
	}{
		"slow-rails":  {rails: gitlab.Fault{Delay: 15 * time.Second}},
		"dead-rails":  {rails: gitlab.Fault{Hang: true}},
		"slow-gitaly": {gitaly: gitaly.Fault{Delay: 15 * time.Second}},
		"dead-gitaly": {gitaly: gitaly.Fault{Delay: time.Hour}},
		"both-dead":   {rails: gitlab.Fault{Hang: true}, gitaly: gitaly.Fault{Delay: time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, name, options{agent: "kubernetes_api: {allowed_agent_cache_ttl: 600s}, configuration: {poll_period: 0.2s}"})
			for _, authorization := range []string{b.asJob(), b.asUser()} { // from here on they are cached
				if err := b.answers(authorization); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(b.gl.Stop) // before kas, which would give what hangs some time to end
			had := b.configuration()
			for _, e := range railsEndpoints {
				b.gl.Break(e, tt.rails)
			}
			b.gl.Gitaly.Break(tt.gitaly)
			defer b.strangers()()
			b.awaitWaiting(tt.rails.Hang || tt.rails.Delay > 0, tt.gitaly.Delay > 0)
			for range 5 {
				for _, authorization := range []string{b.asJob(), b.asUser()} {
					asked := time.Now()
					if err := b.answers(authorization); err != nil || time.Since(asked) > prompt {
						t.Errorf("%v after %s", err, time.Since(asked))
					}
				}
			}
			b.keeps(had)
			if tt.gitaly.Delay == 0 { // an agent whose token is known comes and goes
				b.restart()
			}
		})
	}
}

// awaitWaiting waits until calls of kas hang.
func (b *bed) awaitWaiting(rails, git bool) {
	b.Helper()
	b.eventually("kas waits for an answer", func() error {
		for _, e := range []gitlab.Endpoint{gitlab.AllowedAgents, gitlab.AuthorizeProxyUser} {
			requests := b.gl.Requests(e)
			if last := len(requests) - 1; rails && (last < 0 || requests[last].Status != 0) {
				return fmt.Errorf("nothing waits at %s", e)
			}
		}
		calls := b.gl.Gitaly.Calls("")
		if last := len(calls) - 1; git && (last < 0 || calls[last].Done) {
			return errors.New("nothing waits at Gitaly")
		}
		return nil
	})
}

var railsEndpoints = []gitlab.Endpoint{
	gitlab.AgentInfo, gitlab.AllowedAgents, gitlab.AuthorizeProxyUser, gitlab.AgentConfiguration, gitlab.UsageMetrics, gitlab.AgentEvents,
}

// strangers are requests with credentials that only GitLab could judge. They wait until the returned function is called.
func (b *bed) strangers() (end func()) {
	ctx, cancel := context.WithCancel(b.Context())
	var waiting sync.WaitGroup
	for range 10 {
		for _, authorization := range []string{b.asJob() + "x", b.asUser() + "x"} {
			waiting.Go(func() {
				if code, _, err := b.get(ctx, authorization); err == nil && code < 400 {
					b.Errorf("a stranger is let in with %d", code)
				}
			})
		}
	}
	return func() {
		cancel()
		waiting.Wait()
	}
}

// restart stops the agent and starts it again.
func (b *bed) restart() {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	_, err := b.line.StopAgent(ctx, b.name)
	b.must(err)
	applied := b.configuration().applied
	asked := time.Now()
	b.must(b.line.StartAgent(ctx, b.name))
	b.eventually("the agent has its configuration", func() error {
		if b.configuration().applied == applied {
			return errors.New("not yet")
		}
		return nil
	})
	if err := b.answers(b.asJob()); err != nil || time.Since(asked) > restarted {
		b.Errorf("restarted: %v after %s", err, time.Since(asked))
	}
}
