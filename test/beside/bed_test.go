package beside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/redis"
)

const (
	agentID = 7
	infra   = "acme/infra"

	// patience bounds what happens within seconds on an idle machine, and within some minutes on a busy one.
	patience = 90 * time.Second
	// prompt bounds what takes a second at most, and is less than any pause before another attempt, and than what slow servers take.
	prompt = 8 * time.Second
	// restarted bounds what takes two seconds, and is less than what slow servers take.
	restarted = 14 * time.Second
)

// bed is a GitLab, a kas beside it, and an agent that a job and a person may use.
type bed struct {
	*testing.T
	gl     *gitlab.GitLab
	line   *line.Line
	name   string // of the agent; each test has one of its own, as the cluster is shared
	token  gitlab.Token
	job    gitlab.Job
	pat    gitlab.PAT
	client *http.Client
	pushes atomic.Int64
}

// options change a bed before it starts.
type options struct {
	gitlab gitlab.Config
	// agent is what kas' section agent has besides, without the braces.
	agent string
	// twins are further installations with the agent's token.
	twins []string
}

// start returns a bed whose agent has its first configuration, and whose GitLab knows that.
func start(t *testing.T, name string, o options) *bed {
	t.Helper()
	b := &bed{T: t, name: name, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	t.Cleanup(b.client.CloseIdleConnections)
	o.gitlab.Settings.Tier = gitlab.Ultimate
	var err error
	b.gl, err = gitlab.Start(t.Context(), o.gitlab)
	b.must(err)
	t.Cleanup(b.gl.Stop)
	b.populate()
	api := filepath.Join(b.gl.Dir, "api.sock")
	b.gl.Change(func(s *gitlab.Settings) { s.Kas.InternalURL = "unix:" + api })
	cfg := line.Config{
		ControlPlane: cluster, Jobs: []line.Job{}, PlainProxy: true,
		Agents: []line.Agent{{ID: agentID, Name: name, Project: infra, Token: b.token.Value}},
		ExtraKasYAML: fmt.Sprintf(`
standalone:
gitlab: {address: %[1]q, authentication_secret_file: %[2]q}
redis: {server: {address: %[5]q}}
api: {listen: {network: unix, address: %[3]q, authentication_secret_file: %[2]q, listen_grace_period: 0.1s}}
private_api: {listen: {network: unix, address: %[6]q, authentication_secret_file: %[2]q}}
agent: {%[4]s}
`, b.gl.URL, b.gl.SecretFile, api, o.agent, redis.StartT(t, redis.Config{}).Address(), filepath.Join(b.gl.Dir, "private.sock")),
	}
	for i, twin := range o.twins {
		cfg.Agents = append(cfg.Agents, line.Agent{ID: agentID + 1 + int64(i), Name: twin, Project: infra, Token: b.token.Value})
	}
	b.line = line.StartT(t, cfg)
	b.awaitLog("its first configuration", b.agentLog, "Configuration applied")
	b.eventually("GitLab knows the configuration", func() error {
		if _, posts, _ := b.gl.Configuration(agentID); posts == 0 {
			return errors.New("not posted")
		}
		return nil
	})
	return b
}

// populate fills GitLab.
func (b *bed) populate() {
	b.Helper()
	_, err := b.gl.AddUser(gitlab.User{ID: 3, Username: "ci-user"})
	b.must(err)
	_, err = b.gl.AddProject(b.Context(), gitlab.Project{ID: 10, Path: infra})
	b.must(err)
	b.must(b.gl.AddMember("ci-user", infra, gitlab.Developer))
	_, err = b.gl.AddAgent(gitlab.Agent{ID: agentID, Name: b.name, Project: infra})
	b.must(err)
	b.token, err = b.gl.CreateToken(agentID)
	b.must(err)
	b.job, err = b.gl.AddJob(gitlab.Job{ID: 1001, Project: infra, User: "ci-user"})
	b.must(err)
	b.pat, err = b.gl.AddPAT(gitlab.PAT{Username: "ci-user", Scopes: []string{"k8s_proxy"}})
	b.must(err)
	b.push()
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// push commits another configuration, which lets in the same people, and returns the commit.
func (b *bed) push() string {
	b.Helper()
	commit, err := b.gl.PushConfig(b.Context(), agentID, fmt.Sprintf(`# Version %d.
ci_access: {projects: [{id: %[2]s, access_as: {ci_job: {}}}]}
user_access: {access_as: {user: {}}, projects: [{id: %[2]s}]}
`, b.pushes.Add(1), infra))
	b.must(err)
	return commit
}

// notify tells kas of a push that changed nothing, so that it looks at the repository.
func (b *bed) notify() {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	b.must(b.gl.Kas().GitPush(ctx, infra))
}

func (b *bed) agentLog() string { return b.line.AgentLog(b.name) }

func (b *bed) kasLog() string { return b.line.KasLog() }

// awaitApplied waits until the agent uses the configuration of a commit.
func (b *bed) awaitApplied(commit string) {
	b.Helper()
	b.awaitLog("the configuration at the agent", b.agentLog, commit)
}

func (b *bed) awaitLog(what string, log func() string, text string) {
	b.Helper()
	b.eventually(what, func() error {
		if !strings.Contains(log(), text) {
			return fmt.Errorf("no %q in the log", text)
		}
		return nil
	})
}

func (b *bed) eventually(what string, check func() error) {
	b.Helper()
	b.within(patience, what, check)
}

func (b *bed) within(limit time.Duration, what string, check func() error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	line.Eventually(ctx, b, what, func(context.Context) error { return check() })
}

func (b *bed) asJob() string { return fmt.Sprintf("Bearer ci:%d:%s", agentID, b.job.Token) }

func (b *bed) asUser() string { return fmt.Sprintf("Bearer pat:%d:%s", agentID, b.pat.Value) }

// get asks the cluster for its version with a credential.
func (b *bed) get(ctx context.Context, authorization string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.line.ProxyURL+"/version", http.NoBody)
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", authorization)
	response, err := b.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// answers is nil if the cluster answers.
func (b *bed) answers(authorization string) error {
	code, body, err := b.get(b.Context(), authorization)
	if err == nil && (code != http.StatusOK || !strings.Contains(body, "gitVersion")) {
		err = fmt.Errorf("%d %s", code, body)
	}
	return err
}

// configuration is what an agent has at a moment.
type configuration struct{ applied int }

func (b *bed) configuration() configuration {
	return configuration{applied: strings.Count(b.agentLog(), "Configuration applied")}
}

// keeps fails unless the agent has the configuration that it had, and takes it for a good one.
func (b *bed) keeps(had configuration) {
	b.Helper()
	if now := b.configuration(); now != had {
		b.Errorf("the agent was given %d configurations meanwhile", now.applied-had.applied)
	}
	if strings.Contains(b.agentLog(), "Configuration refused") {
		b.Error("the agent refuses a configuration")
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	page, err := b.line.AgentMetrics(ctx, b.name)
	b.must(err)
	if valid, _ := line.Metric(page, "agentk_config_valid"); valid != "1" {
		b.Errorf("agentk_config_valid is %q", valid)
	}
}
