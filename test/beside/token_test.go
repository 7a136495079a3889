package beside

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// tokenUsed is nil if an agent has been identified by a token.
func (b *bed) tokenUsed(id int64) error {
	for _, token := range b.gl.Tokens(agentID) {
		if token.ID == id && !token.LastUsed.IsZero() {
			return nil
		}
	}
	return errors.New("not used")
}

// Requests go on while the agent is given its second token and the first is revoked.
func TestToken_RotationDropsNoRequest(t *testing.T) {
	t.Parallel()
	b := start(t, "token-rotation", options{agent: quickly})
	asking, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var requests atomic.Int64
	for range 3 {
		clients.Go(func() {
			for asking.Err() == nil {
				if err := b.answers(b.asJob()); err != nil {
					t.Errorf("request %d: %v", requests.Load(), err)
				}
				requests.Add(1)
			}
		})
	}
	defer func() {
		stop()
		clients.Wait()
	}()
	next, err := b.gl.CreateToken(agentID)
	b.must(err)
	b.must(b.line.SetAgent(b.name, func(a *line.Agent) { a.Token = next.Value }))
	b.eventually("the agent uses its new token", func() error { return b.tokenUsed(next.ID) })
	b.must(b.gl.RevokeToken(b.token.ID))
	b.awaitLog("the streams of the old token end", b.kasLog, "Agent token is no longer valid")
	b.awaitRequests(&requests)
	b.awaitApplied(b.push())
	b.awaitRequests(&requests)
	if pods := b.connected(); pods != 1 {
		t.Errorf("%d pods are connected", pods)
	}
}

// awaitRequests waits until some more have been answered.
func (b *bed) awaitRequests(requests *atomic.Int64) {
	b.Helper()
	before := requests.Load()
	b.eventually("requests go on", func() error {
		if n := requests.Load() - before; n < 200 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
}

// connected is how many pods of the agent GitLab is told to be connected.
func (b *bed) connected() int {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	pods, err := b.gl.Kas().ConnectedAgents(ctx, agentID)
	b.must(err)
	return len(pods)
}

func (b *bed) awaitConnected(want int) {
	b.Helper()
	b.eventually("the tracker follows", func() error {
		if pods := b.connected(); pods != want {
			return fmt.Errorf("%d pods are connected, want %d", pods, want)
		}
		return nil
	})
}

func TestToken_Revoked_IsCutOff(t *testing.T) {
	t.Parallel()
	b := start(t, "token-revoked", options{agent: quickly})
	had := b.configuration()
	b.must(b.gl.RevokeToken(b.token.ID))
	revoked := time.Now()
	b.awaitLog("its streams end", b.kasLog, "Agent token is no longer valid")
	if took := time.Since(revoked); took > prompt {
		t.Errorf("cut off after %s, answers are believed for a second", took)
	}
	b.eventually("kas has no stream of it", func() error {
		page, err := b.line.KasMetrics(b.Context())
		for _, state := range []string{"idle", "busy"} {
			if n, _ := line.Metric(page, fmt.Sprintf("kas_tunnels{state=%q}", state)); err == nil && n != "0" {
				err = fmt.Errorf("%s %s", n, state)
			}
		}
		return err
	})
	b.keeps(had)
	// A new token lets it in again.
	next, err := b.gl.CreateToken(agentID)
	b.must(err)
	b.must(b.line.SetAgent(b.name, func(a *line.Agent) { a.Token = next.Value }))
	b.eventually("the agent is back", func() error { return b.answers(b.asJob()) })
}

// A registration lasts for seven minutes; a deleted agent is gone long before.
func TestToken_DeletedAgent_DisappearsFromTheTracker(t *testing.T) {
	t.Parallel()
	b := start(t, "token-deleted", options{agent: quickly})
	b.awaitConnected(1)
	b.must(b.gl.DeleteAgent(agentID))
	b.awaitConnected(0)
	if err := b.answers(b.asJob()); err == nil {
		t.Error("it serves on")
	}
}

func TestToken_TwoInstallations_AreWarnedAbout(t *testing.T) {
	t.Parallel()
	b := start(t, "token-twin-a", options{twins: []string{"token-twin-b"}})
	b.awaitConnected(2)
	b.awaitLog("the warning", b.kasLog, "installed more than once")
	for _, place := range []string{"gitlab-agent-token-twin-a", "gitlab-agent-token-twin-b"} {
		b.awaitLog("the place of each", b.kasLog, "in namespace "+place)
	}
}
