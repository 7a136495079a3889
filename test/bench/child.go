package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// child is this program as something else, in a process of its own.
type child struct {
	cmd *exec.Cmd
	// address is host:port where it listens: the first line it says.
	address string
}

// startChild starts this program with other arguments, and with more in its environment.
func startChild(args []string, env ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.stop()
		return nil, err
	}
	c.address = strings.TrimSpace(line)
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop ends it. A child that never started has ended already.
func (c *child) stop() {
	if c != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}
