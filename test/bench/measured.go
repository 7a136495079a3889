package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"time"
)

// measuredPoll is how often the memory of a command is read: what it took in its last moments is missing.
const measuredPoll = 5 * time.Millisecond

// measured runs a command and returns what it took. The most memory that the kernel reports of a child that has ended counts from before
// it became the command, when it still was this program; hence it is read from the process while it runs.
func measured(cmd *exec.Cmd) (cost, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return cost{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(measuredPoll)
	defer tick.Stop()
	var c cost
	for {
		select {
		case err := <-ended:
			if err != nil {
				return cost{}, fmt.Errorf("%w: %s", err, out.Bytes()[max(0, out.Len()-500):])
			}
			c.seconds = time.Since(begun).Seconds()
			c.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
			return c, nil
		case <-tick.C:
			// The most it held so far; nothing once it has ended.
			if most, err := memoryOf(cmd.Process.Pid, "VmHWM"); err == nil {
				c.memory = most
			}
		}
	}
}
