package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// poll is how often a program is asked whether it is ready.
const poll = 50 * time.Millisecond

// process is one program of the test bed. It dies with us: the kernel kills it when this process ends, however that happens.
type process struct {
	name string
	log  string // path of its output
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was reaped
}

// spawn starts a program in a process group of its own, so that a Ctrl-C at the terminal reaches the test first.
func spawn(logDir, name, path string, args ...string) (*process, error) {
	log := filepath.Join(logDir, name+".log")
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Dir = filepath.Dir(logDir)
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

// stop kills the program and waits until it is gone. Data is thrown away or on disk already, so nothing is gained by asking politely.
func (p *process) stop() {
	if p.ended() != nil {
		return // its process id may be somebody else's by now
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// ended is the error of a program that should be running and is not; nil while it runs.
func (p *process) ended() error {
	select {
	case <-p.done:
		return &endedError{process: p.name, state: p.cmd.ProcessState.String(), output: p.lastOutput()}
	default:
		return nil
	}
}

// lastOutput returns the end of the program's log.
func (p *process) lastOutput() []byte {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return content[max(0, len(content)-2000):]
}

// wait polls until check succeeds; it gives up when ctx ends or one of the programs does.
func wait(ctx context.Context, what string, programs []*process, check func() error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		for _, p := range programs {
			if ended := p.ended(); ended != nil {
				return ended
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// endedError says that a program of the test bed ended by itself.
type endedError struct {
	process, state string
	output         []byte
}

func (e *endedError) Error() string {
	return fmt.Sprintf("%s ended (%s):\n%s", e.process, e.state, e.output)
}

// portTaken says whether a program ended because somebody else took its port between our choice and its start.
func portTaken(err error) bool {
	var ended *endedError
	return errors.As(err, &ended) && bytes.Contains(ended.output, []byte("address already in use"))
}
