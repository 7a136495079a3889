//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal with a program at it.
type terminal struct {
	keyboard *os.File
	screen   transcript
}

// atTerminal starts a program whose terminal has that size.
func atTerminal(t *testing.T, cmd *exec.Cmd, rows, columns uint16) (*terminal, *program) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	terminal := &terminal{keyboard: master}
	terminal.resize(t, rows, columns)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := begin(t, cmd)
	slave.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&terminal.screen, master) // fails when the last program has left the terminal
	}()
	t.Cleanup(func() {
		<-p.done
		<-read
		master.Close()
	})
	return terminal, p
}

// resize makes the kernel send SIGWINCH to the program.
func (s *terminal) resize(t *testing.T, rows, columns uint16) {
	t.Helper()
	err := unix.IoctlSetWinsize(int(s.keyboard.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *terminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(s.keyboard, keys); err != nil {
		t.Fatal(err)
	}
}

// sizeScript tells the size of its terminal at first and whenever that changes.
const sizeScript = `tell() { echo "size: $(stty size)"; }; trap tell WINCH; tell; while true; do sleep 0.1; done`

func TestExec_Terminal(t *testing.T) {
	eachProtocol(t, func(t *testing.T, j job) {
		j.webPod(t)
		terminal, p := atTerminal(t, j.kubectl(soon(t), t, "exec", "-it", "web", "--", "sh", "-c", sizeScript), 24, 80)
		terminal.screen.wait(t, "size: 24 80")
		terminal.resize(t, 50, 132)
		terminal.screen.wait(t, "size: 50 132")
		terminal.resize(t, 10, 40)
		terminal.screen.wait(t, "size: 10 40")
		terminal.press(t, "\x03") // Ctrl-C is for the program in the Pod
		if got, want := p.wait(t), 130; got != want {
			t.Errorf("exit code %d after Ctrl-C, want %d; screen: %q", got, want, &terminal.screen)
		}
	})
}

func TestExec_Shell(t *testing.T) {
	eachProtocol(t, func(t *testing.T, j job) {
		j.webPod(t)
		terminal, p := atTerminal(t, j.kubectl(soon(t), t, "exec", "-it", "web", "--", "sh"), 24, 80)
		terminal.press(t, "echo $((6*7))\r")
		terminal.screen.wait(t, "42\r\n")
		terminal.press(t, "exit 5\r")
		if got, want := p.wait(t), 5; got != want {
			t.Errorf("exit code %d, want %d; screen: %q", got, want, &terminal.screen)
		}
	})
}
