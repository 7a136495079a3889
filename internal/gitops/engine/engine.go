// Package engine is the GitOps engine: the process that renders what a repository holds, brings it into the cluster and keeps it so.
//
// It is a child of the leading agentk and talks to it over standard input and output (api/engine). Foreign repositories are rendered
// here, away from the credentials of the tunnel, and what rendering or applying takes in memory, or breaks, takes nothing of the tunnel
// with it. A worker is one manifest project or one chart; workers know nothing of each other. When standard input closes, agentk is gone
// or wants the engine to be, and the engine ends at once: every step leaves an inventory that the next engine can go on from.
//
//	stdio      frames messages
//	cluster    clients whose requests end with the run they belong to
//	plan       namespaces, kinds, duplicates, the inventory object
//	inventory  what was applied, in a ConfigMap
//	apply      one run of the upstream apply library
//	drift      is the cluster still as it was applied?
//	status     what people see, and publish, which writes it to a ConfigMap and Events
//	release    Helm's records of charts
//	diff       what applying would change
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
)

// Config is what an Engine needs.
type Config struct {
	// In and Out are the pipes to and from agentk.
	In  io.Reader
	Out *stdio.Writer
	// Version is reported to agentk.
	Version string
	// Rest makes the way to the API server from Setup's kubeconfig. Nil: cluster.Load.
	Rest func(kubeconfig []byte) (*rest.Config, error)
	// Retry is how a run is tried again that failed for no fault of the repository. Zero: 10 seconds to a minute.
	Retry backoff.Policy
	// MetricsInterval is how often the engine's own figures are sent. Zero: never.
	MetricsInterval time.Duration
}

// defaultRetry is the baseline's.
var defaultRetry = backoff.Policy{Initial: 10 * time.Second, Max: time.Minute, Factor: 2, Jitter: 1, ResetAfter: 2 * time.Minute}

// stopTimeout bounds the wait for workers at the end. What they write then is a favour to the next engine, not a need.
const stopTimeout = time.Second

// Engine runs workers. Everything below is used by the goroutine of Run only.
type Engine struct {
	config  Config
	send    *sender
	setup   *engine.Setup
	cluster *cluster.Cluster

	// rendering has a token while a repository is rendered: one at a time, so that what it takes, or breaks, is known to be its.
	rendering chan struct{}

	announced map[string]*job
	workers   map[string]*worker
	wg        sync.WaitGroup // workers and metrics
}

// Run serves agentk until its pipe closes, which is no error.
func Run(ctx context.Context, config Config) error {
	if config.Retry == (backoff.Policy{}) {
		config.Retry = defaultRetry
	}
	if config.Rest == nil {
		config.Rest = func(kubeconfig []byte) (*rest.Config, error) {
			return cluster.Load(kubeconfig, "agentk-gitops/"+config.Version)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e := &Engine{
		config:    config,
		send:      &sender{out: config.Out, lost: cancel},
		rendering: make(chan struct{}, 1),
		announced: map[string]*job{},
		workers:   map[string]*worker{},
	}
	err := e.serve(ctx)
	cancel()
	e.wait()
	return err
}

func (e *Engine) wait() {
	done := make(chan struct{})
	go func() { e.wg.Wait(); close(done) }()
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// serve reads messages until the pipe closes or breaks, or nobody reads what the engine says.
func (e *Engine) serve(ctx context.Context) error {
	in := stdio.NewReader(e.config.In)
	m := &engine.ToEngine{}
	for ctx.Err() == nil {
		err := in.Read(m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from agentk: %w", err)
		}
		if err := e.handle(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// handle does what one message asks for.
func (e *Engine) handle(ctx context.Context, m *engine.ToEngine) error {
	if e.setup == nil {
		setup := m.GetSetup()
		if setup == nil {
			return errors.New("the first message from agentk is not Setup")
		}
		return e.begin(ctx, setup)
	}
	switch m := m.GetMessage().(type) {
	case *engine.ToEngine_Begin:
		e.announced[m.Begin.GetWorker()] = newJob(m.Begin, e.setup.GetLimits())
	case *engine.ToEngine_File:
		if j := e.announced[m.File.GetWorker()]; j != nil {
			j.add(m.File)
		}
	case *engine.ToEngine_Run:
		e.run(ctx, m.Run.GetWorker())
	case *engine.ToEngine_Cancel:
		delete(e.announced, m.Cancel.GetWorker())
		if w := e.workers[m.Cancel.GetWorker()]; w != nil {
			w.cancel()
		}
	case *engine.ToEngine_Forget:
		delete(e.announced, m.Forget.GetWorker())
		if w := e.workers[m.Forget.GetWorker()]; w != nil {
			w.end()
			delete(e.workers, m.Forget.GetWorker())
		}
	default:
		return fmt.Errorf("message %T from agentk is not expected here", m)
	}
	return nil
}

func (e *Engine) begin(ctx context.Context, setup *engine.Setup) error {
	config, err := e.config.Rest(setup.GetKubeconfig())
	if err != nil {
		return err
	}
	e.setup, e.cluster = setup, cluster.New(config)
	if e.config.MetricsInterval > 0 {
		e.wg.Go(func() { sendMetrics(ctx, e.config.MetricsInterval, e.send) })
	}
	e.send.message(&engine.FromEngine{Message: &engine.FromEngine_Ready{Ready: &engine.Ready{Version: e.config.Version}}})
	return nil
}

// run hands what was announced to its worker.
func (e *Engine) run(ctx context.Context, name string) {
	j := e.announced[name]
	if j == nil {
		return
	}
	delete(e.announced, name)
	w := e.workers[name]
	if w == nil {
		w = newWorker(ctx, name, e)
		e.workers[name] = w
		e.wg.Go(w.loop)
	}
	w.submit(j)
}
