// Package faults holds the whole line, both daemons as real processes, to what it promises when something goes wrong: a daemon is
// killed, a token is revoked, a configuration is invalid, a cluster refuses or dies, a client lies about who it is. Where the real
// API server cannot be made to misbehave, or where the very bytes that arrive matter, a double of the cluster stands in for it.
package faults

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// Ids of what most lines here consist of. The groups of the job's project are numbered against their order, so that a test sees
// whether somebody sorts them.
const (
	jobID     = 9001
	strangeID = 9002 // a job that no agent lets in
	agentID   = 7

	shop  = "acme/team/shop"
	infra = "acme/infra"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(&suite{kube.Tests(m, kube.Config{Audit: "Metadata"}, &cluster)})
}

// suite stops what tests share after the last of them.
type suite struct{ kube *kube.Suite }

func (s *suite) Run() int {
	code := s.kube.Run()
	for _, l := range []*shared{&realShared, &doubleShared} {
		if err := l.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if err := theDouble.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// shared is a line for all tests that leave it as they found it. It starts with the first of them.
type shared struct {
	once sync.Once
	line *line.Line
	err  error
}

var realShared, doubleShared shared

func (s *shared) get(t *testing.T, cfg func() (line.Config, error)) *line.Line {
	t.Helper()
	s.once.Do(func() {
		var c line.Config
		if c, s.err = cfg(); s.err == nil {
			s.line, s.err = line.Start(context.Background(), c)
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for name, log := range s.line.Logs() {
				t.Logf("--- %s ---\n%s", name, log[max(0, len(log)-8000):])
			}
		}
	})
	return s.line
}

func (s *shared) stop() error {
	if s.line == nil {
		return nil
	}
	logs := s.line.Logs()
	s.line.Stop()
	for name, log := range logs {
		if strings.Contains(log, "WARNING: DATA RACE") || strings.Contains(log, "panic:") {
			return fmt.Errorf("%s has a data race or panicked:\n%s", name, log)
		}
	}
	return nil
}

// realLine is the shared line with the real cluster. Its agents: "demo" serves the job as itself, "other" lets nobody in and does not
// run, "locked" has an account that the cluster does not know.
func realLine(t *testing.T) *line.Line {
	t.Helper()
	return realShared.get(t, func() (line.Config, error) {
		if err := grantJobs(); err != nil {
			return line.Config{}, err
		}
		kubeconfig, err := cluster.KubeconfigForToken("nobody-knows-this-token")
		if err != nil {
			return line.Config{}, err
		}
		return lineConfig(
			line.Agent{ID: agentID, Name: "demo", Project: infra, Config: letIn("{ci_job: {}}")},
			line.Agent{ID: 8, Name: "other", Project: "acme/other", Manual: true},
			line.Agent{ID: 9, Name: "locked", Project: "acme/locked", Config: letIn("{agent: {}}"), Args: []string{"--kubeconfig", kubeconfig}},
		), nil
	})
}

// doubleLine is the shared line whose agents talk to the double: "demo" serves the job as itself, "plain" as the agent. The cluster of
// "refused" is not there at all.
func doubleLine(t *testing.T) *line.Line {
	t.Helper()
	return doubleShared.get(t, func() (line.Config, error) {
		d, err := theDouble.get()
		if err != nil {
			return line.Config{}, err
		}
		nowhere, err := d.kubeconfigFor("https://127.0.0.1:1") // nothing listens there
		if err != nil {
			return line.Config{}, err
		}
		return lineConfig(
			line.Agent{ID: agentID, Name: "demo", Project: infra, Config: letIn("{ci_job: {}}"), Args: d.args()},
			line.Agent{ID: 8, Name: "plain", Project: "acme/plain", Config: letIn("{agent: {}}"), Args: d.args()},
			line.Agent{ID: 9, Name: "refused", Project: "acme/refused", Config: letIn("{ci_job: {}}"), Args: []string{"--kubeconfig", nowhere}},
		), nil
	})
}

// lineConfig is the configuration of all lines here, but for the agents.
func lineConfig(agents ...line.Agent) line.Config {
	return line.Config{
		ControlPlane: cluster,
		Projects: []line.Project{
			{ID: 42, Path: shop, Groups: []line.Group{{ID: 5, Path: "acme/team"}, {ID: 2, Path: "acme"}}},
			{ID: 43, Path: infra},
		},
		Agents: agents,
		Jobs: []line.Job{
			{ID: jobID, Project: shop, Environment: &line.Environment{Name: "production", Slug: "prod", Tier: "production"}},
			{ID: strangeID, Project: "elsewhere/shop", Denied: true},
		},
		ExtraKasYAML: "gitlab: {external_url: https://gl.test}",
	}
}

// letIn is an agent's configuration file that lets the job in.
func letIn(accessAs string) string { return line.CIAccess(accessAs, shop) }

// demoLine starts a line of its own with one agent, for tests that break it. change may be nil.
func demoLine(t *testing.T, change func(*line.Config)) *line.Line {
	t.Helper()
	if err := grantJobs(); err != nil {
		t.Fatal(err)
	}
	cfg := lineConfig(line.Agent{ID: agentID, Name: "demo", Project: infra, Config: letIn("{ci_job: {}}")})
	if change != nil {
		change(&cfg)
	}
	return line.StartT(t, cfg)
}

// grantJobs lets all jobs work with ConfigMaps.
var grantJobs = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return cluster.Apply(ctx, `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: faults}, rules: [
  {apiGroups: [""], resources: [configmaps], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: faults},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: faults},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "gitlab:ci_job"}]}`)
})

// soon bounds what takes seconds on an idle machine.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
