package swarm

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/redis"
)

const (
	// single agents have a token each, pods share one.
	single, pods = 60, 20
	// perSecond and burst are what GitLab is asked at most.
	perSecond, burst = 20, 10
)

// beside is a kas beside a GitLab that knows the agents, and the token of each.
func beside(t *testing.T) (*Kas, *gitlab.GitLab, []string) {
	t.Helper()
	gl, err := gitlab.Start(t.Context(), gitlab.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gl.Stop)
	var tokens []string
	for i := range single + 1 {
		path := fmt.Sprintf("swarm/agents-%d", i)
		id := int64(i + 1)
		if _, err := gl.AddProject(t.Context(), gitlab.Project{ID: id, Path: path}); err != nil {
			t.Fatal(err)
		}
		if _, err := gl.AddAgent(gitlab.Agent{ID: id, Name: fmt.Sprintf("agent-%d", i), Project: path}); err != nil {
			t.Fatal(err)
		}
		token, err := gl.CreateToken(id)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token.Value)
	}
	k, err := NewKas(t.Context(), shortDir(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	secret := gl.SecretFile
	err = k.writeFile(object{
		"gitlab": object{
			"address": gl.URL, "authentication_secret_file": secret,
			"api_rate_limit": object{"refill_rate_per_second": perSecond, "bucket_size": burst},
		},
		"redis": object{"server": object{"address": redis.StartT(t, redis.Config{}).Address()}},
		"api": object{"listen": object{
			"network": "unix", "address": filepath.Join(k.dir, "api.sock"), "authentication_secret_file": secret,
		}},
		"private_api": object{"listen": object{
			"network": "unix", "address": filepath.Join(k.dir, "private.sock"), "authentication_secret_file": secret,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k, gl, tokens
}

// After the death of their kas all agents come back at once. GitLab is asked about each token once, however many calls and pods that
// token has, and never more often than it wants to be asked; nobody is turned away meanwhile.
func TestStorm_GitLabIsAskedOnceAboutEachToken(t *testing.T) {
	k, gl, tokens := beside(t)
	core, logs := observer.New(zapcore.WarnLevel)
	ctx, cancel := context.WithTimeout(t.Context(), stormLimit)
	defer cancel()
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Kill)
	s, err := Start(ctx, Config{
		Agents: single + pods, KasURL: k.URL, Token: func(i int) string { return tokens[min(i, single)] }, Log: zap.New(core),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	// asked waits until all agents are back, and looks at what that cost GitLab.
	asked := func(moment string) {
		t.Helper()
		line.Eventually(ctx, t, "all agents are connected and registered "+moment, k.complete)
		calls := gl.Requests(gitlab.AgentInfo)
		if len(calls) != single+1 {
			t.Fatalf("%s: GitLab was asked %d times about %d tokens", moment, len(calls), single+1)
		}
		slices.SortFunc(calls, func(a, b gitlab.Request) int { return a.At.Compare(b.At) })
		// Half of the time that the limit makes it: on a busy machine calls wait on their way.
		if took := calls[len(calls)-1].At.Sub(calls[0].At); took < (single-burst)*time.Second/perSecond/2 {
			t.Errorf("%s: GitLab was asked %d times within %s", moment, len(calls), took)
		}
		gl.ForgetRequests()
	}
	asked("at the first start")
	for _, entry := range logs.FilterMessage("Agent was not registered").All() {
		t.Errorf("%v", entry.ContextMap())
	}
	k.Kill()
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
	asked("after the kill")
}

// complete is nil when every agent has its two streams parked and is registered.
func (k *Kas) complete(ctx context.Context) error {
	page, err := k.Page(ctx, "/metrics")
	if err != nil {
		return err
	}
	for sample, want := range map[string]int{`kas_tunnels{state="idle"}`: 2 * (single + pods), "connected_agents_count": single + 1} {
		if got, _ := line.Metric(page, sample); got != fmt.Sprint(want) {
			return fmt.Errorf("%s is %q, want %d", sample, got, want)
		}
	}
	return nil
}
