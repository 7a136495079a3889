//go:build e2e

// Package install installs kas and agents as users do, on a real node, from the images of this checkout: with the two Helm charts, with
// "agentk generate", and with a Deployment written by hand. What a chart promises (no lost request during an upgrade, nothing left behind,
// a restricted pod that works) only shows there.
package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/test/kube"
)

const (
	// startLimit covers a busy machine, a cold build and another cluster that has to end first.
	startLimit = 15 * time.Minute
	// patience bounds what a test waits for. It is many times what a free machine needs.
	patience = 3 * time.Minute
	// root of the checkout, as tests see it.
	root = "../../.."
)

// cluster has the images of both daemons.
var cluster *kube.Cluster

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// suite is the tests with one cluster around them.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	images, err := os.MkdirTemp("", "agentk-images-")
	if err == nil {
		defer os.RemoveAll(images)
		err = start(ctx, images)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	return s.m.Run()
}

// start builds the images and brings up a node that has them.
func start(ctx context.Context, images string) error {
	build := exec.CommandContext(ctx, "go", "run", "./deploy/images", "-out", images, "-platforms", "linux/"+runtime.GOARCH)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the images: %w\n%s", err, out)
	}
	var err error
	cluster, err = kube.StartCluster(ctx, kube.ClusterConfig{
		DNS: true, Images: []string{filepath.Join(images, "kas.tar"), filepath.Join(images, "agentk.tar")},
	})
	return err
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// output runs a program that is to succeed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		stderr := ""
		if exit != nil {
			stderr = string(exit.Stderr)
		}
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, stderr)
	}
	return string(out)
}

// admin runs kubectl as administrator.
func admin(t *testing.T, args ...string) string {
	t.Helper()
	out, err := cluster.Kubectl(soon(t), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	if err := cluster.Apply(soon(t), manifest); err != nil {
		t.Fatal(err)
	}
}
