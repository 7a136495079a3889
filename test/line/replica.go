package line

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// ReplicaConfig says what is special about one of several kas.
type ReplicaConfig struct {
	// ExtraYAML is merged over its configuration file, after Config.ExtraKasYAML.
	ExtraYAML string
	// Env is added to its environment.
	Env []string
	// Program is by default the kas of Config.Binaries.
	Program string
}

// Replica is one kas of a line. Its exported fields do not change.
type Replica struct {
	// Name is "kas" for the first one, then "kas-1" and so on: the name of its log.
	Name string
	// File is its configuration file.
	File string
	// AgentAddress is host:port of the agent listener, ProxyAddress that of the Kubernetes proxy.
	AgentAddress, ProxyAddress string

	line    *Line
	cfg     ReplicaConfig
	process *process // guarded by the mutex of the line; nil before the first start
}

// addReplicas chooses the addresses of all kas.
func (l *Line) addReplicas() error {
	ports, err := FreePorts(2 * len(l.cfg.Replicas))
	if err != nil {
		return err
	}
	for i, cfg := range l.cfg.Replicas {
		name := "kas"
		if i > 0 {
			name = fmt.Sprintf("kas-%d", i)
		}
		if cfg.Program == "" {
			cfg.Program = l.cfg.Binaries.Kas
		}
		l.Replicas = append(l.Replicas, &Replica{
			Name: name, File: l.path(name + ".yaml"), line: l, cfg: cfg,
			AgentAddress: net.JoinHostPort(l.cfg.Host, ports[2*i]), ProxyAddress: net.JoinHostPort(l.cfg.Host, ports[2*i+1]),
		})
	}
	return nil
}

// Start starts the kas and waits until it is ready. It may be called again after Stop or Kill; addresses stay the same.
func (r *Replica) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := r.Spawn(); err != nil {
		return err
	}
	return r.WaitReady(ctx)
}

// Spawn starts the kas and waits for nothing.
func (r *Replica) Spawn() error {
	l := r.line
	home, err := l.home(r.Name)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.process != nil && !r.process.ended() {
		return fmt.Errorf("line: %s runs already", r.Name)
	}
	env := append(plainEnvironment(home), r.cfg.Env...)
	r.process, err = spawn(r.Name, l.logPath(r.Name), l.Dir, env, r.cfg.Program, "--configuration-file", r.File)
	return err
}

// WaitReady waits until the kas that was started is ready; it fails at once when the kas ends.
func (r *Replica) WaitReady(ctx context.Context) error {
	p, err := r.running()
	if err != nil {
		return err
	}
	return p.wait(ctx, "readiness", func(ctx context.Context) error { return ready(ctx, r.socket()) })
}

// Stop sends SIGTERM and waits for the end.
func (r *Replica) Stop(ctx context.Context) (Exit, error) { return r.signal(ctx, syscall.SIGTERM) }

// Kill ends the kas without warning.
func (r *Replica) Kill(ctx context.Context) (Exit, error) { return r.signal(ctx, syscall.SIGKILL) }

// Freeze stops the process without ending it, Thaw lets it go on: the peer that is there and says nothing.
func (r *Replica) Freeze() error { return r.poke(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (r *Replica) Thaw() error { return r.poke(syscall.SIGCONT) }

func (r *Replica) signal(ctx context.Context, signal syscall.Signal) (Exit, error) {
	p, err := r.running()
	if err != nil {
		return Exit{}, err
	}
	return p.signal(ctx, signal)
}

func (r *Replica) poke(signal syscall.Signal) error {
	p, err := r.running()
	if err != nil {
		return err
	}
	return syscall.Kill(-p.cmd.Process.Pid, signal)
}

// running returns the process of the last start, which may have ended.
func (r *Replica) running() (*process, error) {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	if r.process == nil {
		return nil, fmt.Errorf("%s: %w", r.Name, errNotRunning)
	}
	return r.process, nil
}

// PID is the process id, 0 if it was never started.
func (r *Replica) PID() int {
	p, err := r.running()
	if err != nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Runs says whether the process runs.
func (r *Replica) Runs() bool {
	p, err := r.running()
	return err == nil && !p.ended()
}

// Page is any page of its observability server. A status other than 200 is an error that carries the page.
func (r *Replica) Page(ctx context.Context, path string) (string, error) {
	return ask(ctx, r.socket(), path)
}

// Log is what it wrote so far, over all its starts.
func (r *Replica) Log() string { return readAll(r.line.logPath(r.Name)) }

func (r *Replica) socket() string { return r.line.path(r.Name + ".sock") }

// first is the kas of those who know of only one.
func (l *Line) first() (*Replica, error) {
	if len(l.Replicas) == 0 {
		return nil, errors.New("line: there is no kas yet")
	}
	return l.Replicas[0], nil
}
