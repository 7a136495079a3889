//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

const (
	// jobID is the CI job that all tests are.
	jobID = 9001
	// jobGroup is the one of its groups that RBAC knows here.
	jobGroup = "gitlab:project:42"
	agent    = "demo"
	// startLimit covers a busy machine and another cluster on it that has to end first.
	startLimit = 10 * time.Minute
	// logTail is how much of each daemon's log a failure shows, in bytes.
	logTail = 30_000
)

var (
	cluster *kube.Cluster
	ci      *line.Line
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// suite is the tests with one cluster and one line around them.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if err := start(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	defer ci.Stop()
	before, err := countGoroutines(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := s.m.Run()
	if err := errors.Join(atRest(before), quietLogs()); err != nil {
		fmt.Fprintln(os.Stderr, "after all tests:", err)
		code = 1
	}
	if code != 0 {
		for name, log := range ci.Logs() {
			fmt.Fprintf(os.Stderr, "--- end of the log of %s ---\n%s\n", name, log[max(0, len(log)-logTail):])
		}
	}
	return code
}

func start(ctx context.Context) error {
	var err error
	if cluster, err = kube.StartCluster(ctx, kube.ClusterConfig{Config: kube.Config{Audit: "Metadata"}}); err != nil {
		return err
	}
	ci, err = line.Start(ctx, line.Config{
		ControlPlane: cluster.ControlPlane,
		Projects: []line.Project{
			{ID: 31, Path: "acme/infra", Groups: []line.Group{{ID: 2, Path: "acme"}}},
			{ID: 42, Path: "acme/web/shop", Groups: []line.Group{{ID: 5, Path: "acme/web"}, {ID: 2, Path: "acme"}}},
		},
		Agents: []line.Agent{{ID: 7, Name: agent, Project: "acme/infra", Config: line.CIAccess("{ci_job: {}}", "acme/web/shop")}},
		Jobs: []line.Job{{
			ID: jobID, Pipeline: 801, Project: "acme/web/shop", User: "ci-user",
			Environment: &line.Environment{Name: "production", Slug: "production", Tier: "production"},
		}},
	})
	if err != nil {
		cluster.Stop()
	}
	return err
}
