package kube

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// StartT starts a control plane for one test and stops it afterwards. It fails t when it cannot. Tests that only read, or keep to a
// namespace of their own, had better share one per package: see Tests.
func StartT(t testing.TB, cfg Config) *ControlPlane {
	t.Helper()
	cp, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cp.Stop)
	return cp
}

// Suite is a package's tests with something that is started before the first and stopped after the last.
type Suite struct {
	m     *testing.M
	start func(context.Context) (stop func(), err error)
}

// Tests gives all tests of a package one control plane, to be found in *cp:
//
//	var cluster *kube.ControlPlane
//
//	func TestMain(m *testing.M) {
//		goleak.VerifyTestMain(kube.Tests(m, kube.Config{Audit: "Metadata"}, &cluster))
//	}
//
// Without goleak: os.Exit(kube.Tests(m, kube.Config{}, &cluster).Run()).
func Tests(m *testing.M, cfg Config, cp **ControlPlane) *Suite {
	return &Suite{m: m, start: func(ctx context.Context) (func(), error) {
		started, err := Start(ctx, cfg)
		if err != nil {
			return nil, err
		}
		*cp = started
		return started.Stop, nil
	}}
}

// Run returns the exit code of the tests; 1 when there was nothing to run them against.
func (s *Suite) Run() int {
	stop, err := s.start(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return s.m.Run()
}
