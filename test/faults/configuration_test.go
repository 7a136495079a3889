package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

const refusedConfig = "Configuration refused, the last good one stays in use"

// configLine is a line with one agent of that name, whose Deployment the cluster has.
func configLine(t *testing.T, name string, change func(*line.Config)) *line.Line {
	t.Helper()
	return demoLine(t, func(c *line.Config) {
		c.Agents[0].Name = name
		if change != nil {
			change(c)
		}
	})
}

// awaitRefused waits until an agent's log holds a refusal and returns its reason.
func awaitRefused(t *testing.T, l *line.Line, agent string) string {
	t.Helper()
	log := func() string { return l.AgentLog(agent) }
	reason, _ := logged(t, log, refusedConfig, "")["reason"].(string)
	return reason
}

// expectConfigValid waits for the gauge that users alert on.
func expectConfigValid(t *testing.T, l *line.Line, agent string, want float64) {
	t.Helper()
	line.Eventually(soon(t), t, "the gauge follows", func(ctx context.Context) error {
		page, err := l.AgentMetrics(ctx, agent)
		if err != nil {
			return err
		}
		return expectSample(page, "agentk_config_valid", want, want)
	})
}

func TestConfiguration_Invalid_LastGoodStaysAndEverybodyIsTold(t *testing.T) {
	t.Parallel()
	const name = "configured"
	l := configLine(t, name, nil)
	makeDeployment(t, "gitlab-agent-"+name)
	commit, err := l.PushConfig(soon(t), name, letIn("{ci_job: {}}")+"    acces_as: {agent: {}}\n")
	if err != nil {
		t.Fatal(err)
	}
	reason := awaitRefused(t, l, name)
	want := regexp.MustCompile(`^Config: \.gitlab/agents/configured/config\.yaml at commit ` + commit[:8] +
		`: ci_access\.projects\[0\]\.acces_as \(line 5\): `)
	if !want.MatchString(reason) {
		t.Errorf("reason %q, want %s", reason, want)
	}
	expectConfigValid(t, l, name, 0)
	expectEvent(t, "gitlab-agent-"+name, "Deployment/gitlab-agent Warning InvalidConfiguration "+reason)
	if a := mustDo(t, l, name, request{path: "/version"}); a.code != http.StatusOK {
		t.Errorf("the last good configuration is gone: %d %s", a.code, a.body)
	}
	if commit, err = l.PushConfig(soon(t), name, letIn("{ci_job: {}}")); err != nil {
		t.Fatal(err)
	}
	expectConfigValid(t, l, name, 1)
	logged(t, func() string { return l.AgentLog(name) }, "Configuration applied", commit)
	expectEvent(t, "gitlab-agent-"+name, "Deployment/gitlab-agent Normal ConfigurationApplied ")
}

func TestConfiguration_TooBig_ReasonSaysHowBigItMayBe(t *testing.T) {
	t.Parallel()
	const name = "too-big"
	l := configLine(t, name, func(c *line.Config) {
		c.Jobs[0].Denied = true
		c.Agents[0].Config = "# " + strings.Repeat("x", 129<<10) + "\n"
	})
	reason := awaitRefused(t, l, name)
	for _, want := range []string{".gitlab/agents/too-big/config.yaml", "132099 bytes", "131072"} {
		if !strings.Contains(reason, want) {
			t.Errorf("reason %q does not say %q", reason, want)
		}
	}
	expectConfigValid(t, l, name, 0)
}

func TestConfiguration_NoFile_IsAnEmptyOne(t *testing.T) {
	t.Parallel()
	const name = "no-file"
	l := configLine(t, name, func(c *line.Config) {
		c.Agents[0].Config, c.Jobs[0].Denied = "", true
		c.Jobs = append(c.Jobs, line.Job{ID: 9003, Project: infra})
	})
	if _, err := l.PushConfig(soon(t), name, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := line.WaitLog(soon(t), func() string { return l.AgentLog(name) }, "Configuration applied"); err != nil {
		t.Error(err)
	}
	expectConfigValid(t, l, name, 1)
	mustDo(t, l, name, request{path: "/version"}).refusal(t, http.StatusForbidden, "Forbidden")
	// Jobs of the agent's own project may use it without anybody saying so, as the agent.
	if version, err := l.Kubectl(soon(t), 9003, "get", "--raw", "/version"); err != nil || !strings.Contains(version, "gitVersion") {
		t.Errorf("job of the agent's own project: %s, %v", version, err)
	}
}

func TestConfiguration_MissingRepository_ReasonNamesIt(t *testing.T) {
	t.Parallel()
	const name = "no-repository"
	l := configLine(t, name, func(c *line.Config) { c.Agents[0].Manual = true })
	if err := os.RemoveAll(l.RepositoryDir(infra)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(soon(t), name); err != nil {
		t.Fatal(err)
	}
	if reason := awaitRefused(t, l, name); !strings.Contains(reason, `repository of project "acme/infra" not found`) {
		t.Errorf("reason %q does not name the repository", reason)
	}
	expectConfigValid(t, l, name, 0)
}

// makeDeployment makes what a Deployment of one agent pod is in the cluster. Nobody runs it: the owners are what counts.
func makeDeployment(t *testing.T, namespace string) {
	t.Helper()
	const template = `{metadata: {labels: {app: gitlab-agent}}, spec: {serviceAccountName: gitlab-agent, containers: [{name: agentk, image: agentk}]}}`
	apply := func(manifest string) {
		t.Helper()
		if err := cluster.Apply(soon(t), manifest); err != nil {
			t.Fatal(err)
		}
	}
	owner := func(kind string) string {
		t.Helper()
		uid, err := cluster.Kubectl(soon(t), "get", kind, "gitlab-agent", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("ownerReferences: [{apiVersion: apps/v1, kind: %s, name: gitlab-agent, uid: %s, controller: true}]", kind, uid)
	}
	apply(fmt.Sprintf("{apiVersion: apps/v1, kind: Deployment, metadata: {name: gitlab-agent, namespace: %s}, "+
		"spec: {selector: {matchLabels: {app: gitlab-agent}}, template: %s}}", namespace, template))
	apply(fmt.Sprintf("{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: gitlab-agent, namespace: %s, %s}, "+
		"spec: {selector: {matchLabels: {app: gitlab-agent}}, template: %s}}", namespace, owner("Deployment"), template))
	apply(fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: gitlab-agent-0, namespace: %s, %s}, "+
		"spec: {serviceAccountName: gitlab-agent, containers: [{name: agentk, image: agentk}]}}", namespace, owner("ReplicaSet")))
}

// expectEvent waits for a Kubernetes Event that starts like that.
func expectEvent(t *testing.T, namespace, want string) {
	t.Helper()
	line.Eventually(soon(t), t, "the Event is there", func(ctx context.Context) error {
		events, err := cluster.Kubectl(ctx, "get", "events", "-n", namespace, "-o",
			`jsonpath={range .items[*]}{.involvedObject.kind}/{.involvedObject.name} {.type} {.reason} {.message}{"\n"}{end}`)
		if err != nil {
			return err
		}
		for event := range strings.Lines(events) {
			if strings.HasPrefix(event, want) {
				return nil
			}
		}
		return errors.New("no event like " + want + " among: " + events)
	})
}
