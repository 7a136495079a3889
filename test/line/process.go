package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// poll is how often something is asked whether it is so far.
const poll = 20 * time.Millisecond

// Exit says how a daemon ended.
type Exit struct {
	// Code is the exit code; -1 when a signal ended it.
	Code int
	// After is the time from the signal we sent to the end.
	After time.Duration
}

// process is one daemon. The kernel kills it when this process ends, however that happens.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was reaped
}

// spawn starts a program in a process group of its own, so that a Ctrl-C at the terminal reaches only us. Its output is appended to log.
func spawn(name, log, dir string, env []string, path string, args ...string) (*process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

// signal sends a signal to the process group and waits for the end of the daemon. When ctx ends first the daemon keeps running and the
// error says so. A daemon that has ended already just tells how.
func (p *process) signal(ctx context.Context, signal syscall.Signal) (Exit, error) {
	sent := time.Now()
	if !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, signal)
	}
	select {
	case <-p.done:
		return Exit{Code: p.cmd.ProcessState.ExitCode(), After: time.Since(sent)}, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("%s still runs %s after signal %q: %w", p.name, time.Since(sent).Round(time.Millisecond), signal, ctx.Err())
	}
}

// end stops the daemon politely, and by force when that takes longer than a while.
func (p *process) end(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := p.signal(ctx, syscall.SIGTERM); err != nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait polls until check succeeds; it gives up when ctx ends or the daemon does.
func (p *process) wait(ctx context.Context, what string, check func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if p.ended() {
			return &endedError{name: p.name, state: p.cmd.ProcessState.String(), output: tail(p.log)}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s: %w\n%s", what, p.name, errors.Join(err, ctx.Err()), tail(p.log))
		case <-tick.C:
		}
	}
}

// tail returns the end of a file.
func tail(path string) []byte {
	const size = 3000
	content, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return content[max(0, len(content)-size):]
}

// endedError says that a daemon ended by itself.
type endedError struct {
	name, state string
	output      []byte
}

func (e *endedError) Error() string {
	return fmt.Sprintf("%s ended (%s):\n%s", e.name, e.state, e.output)
}

// portTaken says whether a daemon ended because somebody took its port between our choice and its start.
func portTaken(err error) bool {
	var ended *endedError
	return errors.As(err, &ended) && bytes.Contains(ended.output, []byte("address already in use"))
}
