//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// transcript keeps what a program writes, for a test that waits for a part of it.
type transcript struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.content.String()
}

// wait waits until a text was written.
func (s *transcript) wait(t *testing.T, text string) {
	t.Helper()
	line.Eventually(soon(t), t, "output of a program", func(context.Context) error {
		if got := s.String(); !strings.Contains(got, text) {
			return fmt.Errorf("no %q in %q", text, got)
		}
		return nil
	})
}

// program is a program that runs beside the test.
type program struct {
	cmd    *exec.Cmd
	stderr transcript
	done   chan struct{}
	err    error // how it ended; to be read after done
}

// begin starts a program. It is ended with the test at the latest, by the end of its context.
func begin(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd, done: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() { <-p.done })
	return p
}

// wait waits for the program's end and returns its exit code.
func (p *program) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-soon(t).Done():
		t.Fatalf("%s did not end; standard error: %s", strings.Join(p.cmd.Args, " "), &p.stderr)
		return 0
	}
}
