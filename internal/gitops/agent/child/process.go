package child

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const (
	// reserve is how much of its memory limit the engine's heap leaves alone, as a fraction: stacks and what the kernel counts.
	reserve = 5
	// expendable is the value that makes the kernel choose the engine, and not agentk, when a container is out of memory.
	expendable = "1000"
	// endLimit is how long a process that has closed its output may take to end.
	endLimit = time.Second
)

// process is the engine as the kernel knows it.
type process struct {
	pid    int
	stdin  *os.File
	stdout *os.File
	stderr *os.File
	words  *words
	exited chan struct{} // closed after state is set
	state  *os.ProcessState
	heard  chan struct{} // closed when all of stderr was read
}

// environment is all that the engine gets to know: where the API server is, and how much memory it may take. PATH is empty, so that no
// library finds a program to run.
func environment(cfg Config) []string {
	return append([]string{
		"PATH=",
		"GOTRACEBACK=single",
		"GOMEMLIMIT=" + strconv.FormatInt(cfg.Memory-cfg.Memory/reserve, 10),
	}, cfg.Environment...)
}

// start starts the engine. The kernel kills it when the thread that started it ends, so that it cannot outlive agentk; that thread
// therefore waits for it.
func start(cfg Config) (*process, error) {
	p := &process{words: &words{}, exited: make(chan struct{}), heard: make(chan struct{})}
	var theirs [3]*os.File
	var err error
	if theirs[0], p.stdin, err = os.Pipe(); err == nil {
		if p.stdout, theirs[1], err = os.Pipe(); err == nil {
			p.stderr, theirs[2], err = os.Pipe()
		}
	}
	if err != nil {
		closeAll(theirs[0], theirs[1], theirs[2], p.stdin, p.stdout, p.stderr)
		return nil, err
	}
	cmd := exec.Command(cfg.Executable)
	cmd.Env, cmd.Dir = environment(cfg), "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // ProcessState says the same
		p.state = cmd.ProcessState
		close(p.exited)
	}()
	err = <-started
	closeAll(theirs[:]...)
	if err != nil {
		closeAll(p.stdin, p.stdout, p.stderr)
		return nil, err
	}
	p.pid = cmd.Process.Pid
	// Without /proc the kernel chooses by size, which is the engine most often.
	_ = os.WriteFile("/proc/"+strconv.Itoa(p.pid)+"/oom_score_adj", []byte(expendable), 0o600)
	go func() {
		defer close(p.heard)
		_, _ = io.Copy(p.words, p.stderr) // ends when the pipe does
	}()
	return p, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // a pipe's end has nothing to lose
		}
	}
}

// kill ends all processes of the group.
func (p *process) kill() {
	// That there is none any more is what is wanted.
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
}

// finish waits for what the engine left behind in its pipes. All processes of the group must be gone.
func (p *process) finish() {
	select {
	case <-p.heard:
	case <-time.After(endLimit): // somebody outside of the group holds it
	}
	closeAll(p.stdout, p.stderr)
	<-p.heard
}

// judge says what an error of reading from the engine means.
func (p *process) judge(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("what it says cannot be understood: %w", err)
	}
	select {
	case <-p.exited:
		return errExited
	case <-time.After(endLimit):
		return errors.New("it closed its output and goes on")
	}
}

// status says how the process ended.
func (p *process) status() string {
	if s, ok := p.state.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGKILL {
		return "killed by the system, as it does when the container is out of memory"
	}
	return p.state.String()
}

func (p *process) lastWords(secrets []string) string { return p.words.text(secrets) }
