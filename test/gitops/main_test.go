package gitops

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

const (
	// agentName is the agent of every line.
	agentName = "demo"
	// configProject holds the agents' configuration.
	configProject = "acme/infra"
	// foreign is a project that the agent may not read.
	foreign = "other/private"
	// deadline is for whatever has to happen: many times what an idle machine needs, and less than the 300 s after which kas looks
	// at a repository without having heard of it.
	deadline = 4 * time.Minute
	// startLimit includes building the programs.
	startLimit = 10 * time.Minute
	// projects is how many projects the shared agent may follow.
	projects = 60
)

var (
	cluster *kube.ControlPlane
	// shared is the line of all tests that break nothing.
	shared *bed
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// suite is the tests with a cluster and a line around them.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	var err error
	if cluster, err = kube.Start(ctx, kube.Config{ControllerManager: true, Audit: "Metadata"}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	bed, cfg := newBed(cluster, 7)
	if bed.Line, err = line.Start(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = bed
	defer shared.Stop()
	// The tests mostly wait. Whoever gives the flag gets what it says.
	if err := flag.Set("test.parallel", "12"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := s.m.Run()
	for name, log := range shared.Logs() {
		if strings.Contains(log, "WARNING: DATA RACE") || strings.Contains(log, "panic:") {
			fmt.Fprintln(os.Stderr, name, "has a data race, or panicked")
			code = 1
		}
		if code != 0 {
			fmt.Fprintf(os.Stderr, "--- end of the log of %s ---\n%s\n", name, log[max(0, len(log)-12_000):])
		}
	}
	return code
}
