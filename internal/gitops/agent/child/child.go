// Package child runs the GitOps engine, agentk-gitops, as a child process. The engine reads repositories that strangers write to, so
// nothing it does may reach agentk: it gets an environment of its own without agentk's token, and a process group that is killed as one;
// what it answers is taken for data; when it crashes, hangs, talks nonsense or takes more memory than it may, it is ended, and the reason
// is an error like others.
package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
)

const (
	defaultStart   = 30 * time.Second
	defaultSilence = time.Minute
	defaultStop    = time.Second
	defaultLook    = 200 * time.Millisecond
)

// Config configures one life of the engine.
type Config struct {
	// Executable is the path of agentk-gitops.
	Executable string
	// Environment is what the engine's environment has besides what this package sets, "NAME=value" each.
	Environment []string
	// Memory is how much resident memory the engine may take, in bytes.
	Memory int64
	Setup  *engine.Setup
	// Secrets must not be in an error; what the engine wrote before its end is part of one.
	Secrets []string
	// Receive gets what the engine says, in order, except Ready. It must return soon: the engine waits for it.
	Receive func(m *engine.FromEngine)

	// Start is how long the engine may take to be ready. 0: 30 s.
	Start time.Duration
	// Silence is how long it may say nothing, and how long it may leave a message unread. 0: 1 min.
	Silence time.Duration
	// Stop is how long it may take to end once it is told to. 0: 1 s.
	Stop time.Duration
	// Look is how often its memory is looked at. 0: 200 ms.
	Look time.Duration
}

// Engine is a running engine.
type Engine struct {
	stdin   *os.File
	writer  *stdio.Writer
	silence time.Duration
	fail    context.CancelCauseFunc

	mu sync.Mutex // makes the deadline that of the message
}

// Run starts the engine, waits until it is ready, and calls use, whose context ends when ctx ends or the engine does. Once use has
// returned the engine is stopped, and all its processes are gone when Run returns. The error says why the engine ended, if it did so by
// itself or had to be killed; nil: it was told to.
func Run(ctx context.Context, cfg Config, use func(ctx context.Context, e *Engine)) error {
	if cfg.Executable == "" || cfg.Memory <= 0 || cfg.Receive == nil {
		return errors.New("GitOps engine: executable, memory limit and receiver are required")
	}
	cfg.fill()
	if ctx.Err() != nil {
		return nil
	}
	p, err := start(cfg)
	if err != nil {
		return fmt.Errorf("start the GitOps engine: %w", err)
	}
	inner, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// The end of its input tells the engine to end, and ends a Send that it does not read.
	context.AfterFunc(inner, func() { closeAll(p.stdin) })
	l := &life{cfg: cfg, process: p, ready: make(chan struct{}), heard: make(chan struct{}, 1)}
	l.watch(inner, fail)
	e := &Engine{stdin: p.stdin, writer: stdio.NewWriter(p.stdin), silence: cfg.Silence, fail: fail}
	if l.prepare(inner, e, fail) {
		use(inner, e)
	}
	told := ctx.Err() != nil || inner.Err() == nil
	l.stop(told)
	fail(nil) // the watchers end, too
	l.watchers.Wait()
	if told {
		return nil
	}
	return l.explain(context.Cause(inner))
}

func (cfg *Config) fill() {
	for _, d := range []struct {
		value     *time.Duration
		byDefault time.Duration
	}{{&cfg.Start, defaultStart}, {&cfg.Silence, defaultSilence}, {&cfg.Stop, defaultStop}, {&cfg.Look, defaultLook}} {
		if *d.value == 0 {
			*d.value = d.byDefault
		}
	}
}

// Send passes a message to the engine. After an error the engine is at its end.
func (e *Engine) Send(m *engine.ToEngine) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.stdin.SetWriteDeadline(time.Now().Add(e.silence))
	if err == nil {
		err = e.writer.Write(m)
	}
	if err == nil || errors.Is(err, stdio.ErrTooLarge) {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it left a message unread for %s", e.silence)
	}
	e.fail(err)
	return fmt.Errorf("tell the GitOps engine: %w", err)
}

// life is one life of the engine, as those who watch it see it.
type life struct {
	cfg     Config
	process *process
	ready   chan struct{} // closed when the engine says so
	heard   chan struct{} // gets a value when the engine has said something

	watchers sync.WaitGroup
}

// watch starts all that may find the engine at its end.
func (l *life) watch(ctx context.Context, fail context.CancelCauseFunc) {
	l.watchers.Go(func() { fail(l.read()) })
	l.watchers.Go(func() { fail(watchMemory(ctx, l.process.pid, l.cfg.Memory, l.cfg.Look)) })
	l.watchers.Go(func() {
		select {
		case <-ctx.Done():
		case <-l.process.exited:
			fail(errExited)
		}
	})
	l.watchers.Go(func() {
		timer := time.NewTimer(max(l.cfg.Start, l.cfg.Silence))
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-l.heard:
				timer.Reset(l.cfg.Silence)
			case <-timer.C:
				fail(fmt.Errorf("it has said nothing for %s", l.cfg.Silence))
				return
			}
		}
	})
}

// errExited stands for what the exit status and the engine's last words say.
var errExited = errors.New("it ended")

// read passes on what the engine says, until it says no more.
func (l *life) read() error {
	reader := stdio.NewReader(l.process.stdout)
	for ready := false; ; {
		m := &engine.FromEngine{}
		if err := reader.Read(m); err != nil {
			return l.process.judge(err)
		}
		select {
		case l.heard <- struct{}{}:
		default:
		}
		switch {
		case m.Message == nil:
		case m.GetReady() != nil && !ready:
			ready = true
			close(l.ready)
		case m.GetReady() == nil:
			l.cfg.Receive(m)
		}
	}
}

// prepare sends what all synchronisations share and waits until the engine is ready.
func (l *life) prepare(ctx context.Context, e *Engine, fail context.CancelCauseFunc) bool {
	if err := e.Send(&engine.ToEngine{Message: &engine.ToEngine_Setup{Setup: l.cfg.Setup}}); err != nil {
		return false
	}
	timer := time.NewTimer(l.cfg.Start)
	defer timer.Stop()
	select {
	case <-l.ready:
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-timer.C:
		fail(fmt.Errorf("it was not ready within %s", l.cfg.Start))
	}
	return false
}

// stop ends the process, in order if it was told to and the time suffices.
func (l *life) stop(told bool) {
	p := l.process
	closeAll(p.stdin)
	if told {
		select {
		case <-p.exited:
		case <-time.After(l.cfg.Stop):
		}
	}
	p.kill()
	<-p.exited
	p.finish()
}

// explain makes the error of an engine that was not told to end.
func (l *life) explain(cause error) error {
	reason := cause.Error()
	if errors.Is(cause, errExited) {
		reason = "it ended by itself, " + l.process.status()
	}
	if words := l.process.lastWords(l.cfg.Secrets); words != "" {
		reason += "; its last words: " + words
	}
	return errors.New("the GitOps engine failed: " + reason)
}
