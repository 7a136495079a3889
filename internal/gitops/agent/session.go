package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
)

var enginePolicy = backoff.Policy{
	Initial:    time.Second,
	Max:        time.Minute,
	Factor:     2,
	Jitter:     0.2,
	ResetAfter: 10 * time.Minute,
}

// lead runs one engine after the other until ctx ends.
func (m *Module) lead(ctx context.Context, updates <-chan struct{}) {
	retry := backoff.New(m.cfg.timing.engine)
	for ctx.Err() == nil {
		guilty, err := m.life(ctx, updates)
		m.metrics.engineGone()
		if ctx.Err() != nil {
			return
		}
		pause := retry.Next()
		if len(guilty) > 0 { // they wait, the others need not
			m.cfg.Log.Warn("Units that ended the GitOps engine are held back", zap.Strings(workerID, guilty))
			retry.Reset()
			pause = min(pause, m.cfg.timing.engine.Initial)
		}
		m.engineFailed(ctx, err, pause)
		sleep(ctx, pause)
	}
}

// engineFailed tells that nothing is synchronised for a while.
func (m *Module) engineFailed(ctx context.Context, err error, pause time.Duration) {
	m.cfg.Log.Error("The GitOps engine is started again", zap.Duration("retry_in", pause), zap.Error(err))
	_, units := m.current()
	r := m.newReport()
	for _, u := range units {
		r.failed(u.id, "", errEngine, pause)
	}
	r.notify(ctx, err.Error())
}

// life runs one engine with a worker for each unit. The error says why the engine ended, and the names are those of units that are to
// blame for it.
func (m *Module) life(ctx context.Context, updates <-chan struct{}) ([]string, error) {
	access, err := m.cfg.Access()
	if err != nil {
		return nil, fmt.Errorf("access of the GitOps engine to the API server: %w", err)
	}
	id, _ := m.current()
	s := &session{module: m, report: m.newReport(), workers: map[string]*worker{}, active: map[string]suspect{}}
	t := m.cfg.timing.child
	m.metrics.starts.Inc()
	err = child.Run(ctx, child.Config{
		Executable: m.cfg.Engine, Environment: access.Environment, Memory: m.cfg.Memory, Secrets: access.Secrets,
		Setup:   m.setup(id, access),
		Receive: s.receive,
		Start:   t.start, Silence: t.silence, Stop: t.stop, Look: t.look,
	}, func(ctx context.Context, e *child.Engine) { s.follow(ctx, e, updates) })
	if err == nil {
		return nil, nil
	}
	return m.quarantine.ended(slices.Collect(maps.Values(s.active)), err), err
}

// session is the time of one engine. Workers do not outlive it: the next engine knows nothing, and all is asked for again.
type session struct {
	module *Module
	report *report

	mu      sync.Mutex // guards all below
	workers map[string]*worker
	// active are those that the engine is at work for.
	active map[string]suspect
}

// follow has a worker for each wanted unit until ctx ends.
func (s *session) follow(ctx context.Context, e *child.Engine, updates <-chan struct{}) {
	defer s.change(ctx, e, nil)
	for {
		_, units := s.module.current()
		s.module.quarantine.retain(units)
		s.change(ctx, e, units)
		select {
		case <-ctx.Done():
			return
		case <-updates:
		}
	}
}

// change stops all workers whose unit is another one now, waits for them, and then starts new ones.
func (s *session) change(ctx context.Context, e *child.Engine, units []unit) {
	wanted := map[string]unit{}
	for _, u := range units {
		wanted[u.id] = u
	}
	s.mu.Lock()
	var old []*worker
	for id, w := range s.workers {
		if u, ok := wanted[id]; ok && u.same(w.unit) {
			delete(wanted, id)
			continue
		}
		old = append(old, w)
		delete(s.workers, id)
	}
	s.mu.Unlock()
	for _, w := range old {
		w.cancel()
	}
	for _, w := range old {
		w.stop()
		s.report.forget(w.unit.id)
		if ctx.Err() == nil {
			_ = w.tell(&engine.ToEngine{Message: &engine.ToEngine_Forget{Forget: &engine.Forget{Worker: w.unit.id}}}) // ctx ends with the engine
		}
	}
	for _, u := range units {
		if _, isNew := wanted[u.id]; isNew {
			s.start(ctx, e, u)
		}
	}
}

func (s *session) start(ctx context.Context, e *child.Engine, u unit) {
	m := s.module
	ctx, cancel := context.WithCancel(ctx)
	w := &worker{
		unit: u, send: e.Send, fetch: fetcher{client: m.cfg.Client, limit: m.cfg.timing.batch}, values: m.values,
		timing: m.cfg.timing, policy: m.cfg.timing.fetch, log: m.cfg.Log.With(zap.String(workerID, u.id)), report: s.report,
		needs: make(chan *engine.Need, 1), cancel: cancel, stopped: make(chan struct{}),
		held: m.quarantine.of(u), release: m.quarantine.release,
	}
	s.mu.Lock()
	s.workers[u.id] = w
	s.mu.Unlock()
	go w.run(ctx)
}

// receive handles what the engine says.
func (s *session) receive(msg *engine.FromEngine) {
	switch m := msg.GetMessage().(type) {
	case *engine.FromEngine_Working:
		s.works(m.Working)
	case *engine.FromEngine_Finished:
		s.rests(m.Finished.GetWorker())
		s.module.quarantine.finished(m.Finished.GetWorker())
		s.report.finished(m.Finished)
	case *engine.FromEngine_Need:
		if w := s.rests(m.Need.GetWorker()); w != nil {
			w.need(m.Need)
		}
	case *engine.FromEngine_Log:
		s.report.line(m.Log)
	case *engine.FromEngine_Metrics:
		s.module.metrics.engine(m.Metrics)
	}
}

// works notes that the engine is at work for a unit.
func (s *session) works(m *engine.Working) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.workers[m.GetWorker()]; w != nil {
		s.active[m.GetWorker()] = suspect{unit: w.unit, begin: w.begun.Load(), rendering: m.GetRendering()}
	}
}

// rests notes that it is so no more, and returns the unit's worker, if there is one.
func (s *session) rests(name string) *worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.active, name)
	return s.workers[name]
}
