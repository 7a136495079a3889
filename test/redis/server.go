package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/tool"
)

const (
	// poll is how often a server is asked whether it is so far.
	poll = 20 * time.Millisecond
	// startLimit is how long a server may take until it answers.
	startLimit = 2 * time.Minute
	// stopLimit is how long a server may take from SIGTERM to its end before it is killed.
	stopLimit = 10 * time.Second
	// portTries is how many ports are tried when others keep taking the chosen one first.
	portTries = 5
)

// Server is one redis-server. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	program string
	port    int

	// mu guards what runs now; nil before the first start.
	mu  sync.Mutex
	run *running
}

// running is one start of the program.
type running struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was reaped
}

// StartT starts a server for one test and ends it afterwards. The Debian package is installed when the program is missing.
func StartT(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = tempDir(t)
	}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.finish(t) })
	return s
}

// tempDir is a new folder with a short name: the path of a unix socket must fit into 107 bytes.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *Server) finish(t testing.TB) {
	if t.Failed() {
		t.Logf("--- redis %s ---\n%s", s.Address(), s.tail())
	}
	s.Close()
}

// Start starts a server and waits until it answers. Close ends it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	program, err := tool.Install(ctx, "redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		s := &Server{cfg: cfg, program: program, port: cfg.Port}
		if s.port == 0 {
			if s.port, err = freePort(); err != nil {
				return nil, err
			}
		}
		if err := s.writeFiles(); err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
		err := s.Restart(ctx)
		if err == nil {
			return s, nil
		}
		s.Close()
		if cfg.Port != 0 || try == portTries || !bytes.Contains(s.tail(), []byte("Address already in use")) {
			return nil, err
		}
	}
}

// Restart starts the server after Stop or Kill, under the same address, and waits until it answers. The data is gone unless
// Config.Persist is set.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Spawn(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return s.wait(ctx, "answer", func(ctx context.Context) error {
		_, err := s.Do(ctx, "PING")
		return err
	})
}

// Spawn is Restart without waiting for an answer: a server that loads its data still says LOADING.
func (s *Server) Spawn() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil && !s.run.ended() {
		return errors.New("redis: runs already")
	}
	conf := s.path("redis.conf")
	// A sentinel writes its state into its file: that must survive.
	if _, err := os.Stat(conf); err != nil || !s.cfg.sentinel || s.run == nil {
		if err := os.WriteFile(conf, []byte(s.configuration()), 0o600); err != nil {
			return fmt.Errorf("redis: %w", err)
		}
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(s.program, conf)
	if s.cfg.sentinel {
		cmd.Args = append(cmd.Args, "--sentinel")
	}
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, s.cfg.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start redis: %w", err)
	}
	r := &running{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		_ = cmd.Wait()
	}()
	s.run = r
	return nil
}

// Stop ends the server politely (SIGTERM) and waits for its end; a server that takes too long is killed.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server at once (SIGKILL) and waits for its end. The kernel closes its connections.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Pause freezes the server (SIGSTOP): its connections stay open, new ones are accepted by the kernel, and nothing is ever answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

// Close ends the server for good. It may be called more than once.
func (s *Server) Close() { s.end(syscall.SIGKILL) }

// PID is the process id of the server, 0 if it does not run.
func (s *Server) PID() int {
	r := s.current()
	if r == nil || r.ended() {
		return 0
	}
	return r.cmd.Process.Pid
}

func (s *Server) current() *running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

func (s *Server) signal(signal syscall.Signal) {
	if pid := s.PID(); pid != 0 {
		_ = syscall.Kill(pid, signal)
	}
}

func (s *Server) end(signal syscall.Signal) {
	r := s.current()
	if r == nil || r.ended() {
		return
	}
	_ = syscall.Kill(r.cmd.Process.Pid, signal)
	if signal != syscall.SIGKILL {
		_ = syscall.Kill(r.cmd.Process.Pid, syscall.SIGCONT) // a frozen server cannot end politely
		select {
		case <-r.done:
			return
		case <-time.After(stopLimit):
			_ = syscall.Kill(r.cmd.Process.Pid, syscall.SIGKILL)
		}
	}
	<-r.done
}

func (r *running) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// wait polls until check succeeds; it gives up when ctx ends or the server does.
func (s *Server) wait(ctx context.Context, what string, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if s.PID() == 0 {
			return fmt.Errorf("redis ended:\n%s", s.tail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of redis: %w\n%s", what, errors.Join(err, ctx.Err()), s.tail())
		case <-time.After(poll):
		}
	}
}

// tail is the end of the log.
func (s *Server) tail() []byte {
	const size = 3000
	content, err := os.ReadFile(s.LogFile())
	if err != nil {
		return []byte(err.Error())
	}
	return content[max(0, len(content)-size):]
}
