//go:build e2e

package middlebox

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// stopPatience is how long a program may take to end after SIGTERM.
const stopPatience = time.Minute

// program is a middlebox that can be stopped and started again at the same address. The kernel kills it when the test process ends.
type program struct {
	path       string
	args       []string
	dir        string
	address    string
	credential *syscall.Credential // nil: as ourselves

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was reaped
}

// start runs the program and waits until it accepts connections.
func (p *program) start(t *testing.T) {
	t.Helper()
	output, err := os.OpenFile(filepath.Join(p.dir, "output.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd, done := exec.Command(p.path, p.args...), make(chan struct{})
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: p.credential}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	p.cmd, p.done = cmd, done
	t.Cleanup(func() { p.stop(t) })
	line.Eventually(soon(t), t, "start of "+p.path, func(ctx context.Context) error {
		select {
		case <-done:
			return fmt.Errorf("it ended (%s): %s", cmd.ProcessState, p.read(t, "output.log"))
		default:
		}
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", p.address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// stop ends the program and waits for it. It may be called for one that has ended.
func (p *program) stop(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		t.Errorf("%s did not end within %s", p.path, stopPatience)
	}
}

// read returns a file of the program's folder; empty when it is not there yet.
func (p *program) read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(content)
}

// showOnFailure prints files of the program's folder at the end of a test that failed.
func (p *program) showOnFailure(t *testing.T, names ...string) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, name := range names {
			text := p.read(t, name)
			t.Logf("--- %s of %s ---\n%s", name, filepath.Base(p.path), text[max(0, len(text)-4000):])
		}
	})
}
