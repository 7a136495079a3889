//go:build unix

package httpgrpc

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// canTryRead: a read can be tried without waiting.
const canTryRead = true

// tryRead reads once, and never asks to be called again.
func (p *prompt) tryRead(fd uintptr) bool {
	n, err := syscall.Read(int(fd), p.to)
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(int(fd), p.to)
	}
	switch {
	case n > 0:
		p.n = n
	case errors.Is(err, syscall.EAGAIN):
		p.err = errNotYet
	case err != nil:
		p.err = os.NewSyscallError("read", err)
	case len(p.to) > 0:
		p.err = io.EOF
	}
	return true
}
