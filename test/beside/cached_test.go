package beside

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

// Nothing of what is cached waits for a Rails or a Gitaly that is slow or says nothing at all, whoever else waits for it.
func TestCached_IsNotDelayed(t *testing.T) {
	t.Parallel()
	b := start(t, "cached", options{agent: "kubernetes_api: {allowed_agent_cache_ttl: 600s}, configuration: {poll_period: 0.5s}"})
	for _, authorization := range []string{b.asJob(), b.asUser()} { // from here on they are cached
		if err := b.answers(authorization); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		rails  gitlab.Fault
		gitaly gitaly.Fault
	}{
		{"slow Rails", gitlab.Fault{Delay: 20 * time.Second}, gitaly.Fault{}},
		{"dead Rails", gitlab.Fault{Hang: true}, gitaly.Fault{}},
		{"slow Gitaly", gitlab.Fault{}, gitaly.Fault{Delay: 5 * time.Second}},
		{"dead Gitaly", gitlab.Fault{}, gitaly.Fault{Delay: time.Hour}},
		{"both dead", gitlab.Fault{Hang: true}, gitaly.Fault{Delay: time.Hour}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			had := b.configuration()
			for _, e := range railsEndpoints {
				b.gl.Break(e, tt.rails)
			}
			b.gl.Gitaly.Break(tt.gitaly)
			end := b.strangers()
			b.notify()
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
			end()
			for _, e := range railsEndpoints {
				b.gl.Mend(e)
			}
			b.gl.Gitaly.Mend()
		})
	}
	b.awaitApplied(b.push())
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
	if err := b.answers(b.asJob()); err != nil || time.Since(asked) > 2*prompt {
		b.Errorf("restarted: %v after %s", err, time.Since(asked))
	}
}
