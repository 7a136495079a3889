package charts

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

var cluster *Cluster

func TestMain(m *testing.M) { goleak.VerifyTestMain(suite{m}) }

// suite gives all tests of the package one cluster.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	var err error
	if cluster, err = StartCluster(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cluster.Stop()
	return s.m.Run()
}
