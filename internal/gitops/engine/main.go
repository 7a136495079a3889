package engine

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
	"gitlab.com/agentk/agentk/internal/version"
)

// metricsInterval is how often the process sends its own figures.
const metricsInterval = 5 * time.Second

// Main is the process. It returns the exit code: 0 when agentk closed the pipe, 1 with a reason on standard error otherwise. A panic is
// not caught: the process ends with it, and agentk takes the end for a failed synchronisation.
func Main() int {
	// Whatever prints must not end up between two frames.
	out := stdio.NewWriter(os.Stdout)
	os.Stdout = os.Stderr
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	klog.SetLogger(logr.New(&logSink{send: &sender{out: out, lost: func() {}}}))
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{In: os.Stdin, Out: out, Version: version.Version, MetricsInterval: metricsInterval})
	}()
	select {
	case err := <-ended:
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case <-ctx.Done():
	}
	return 0
}
