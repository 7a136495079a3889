package plain

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// nothing is what a read that does not wait says when there is nothing to read. To crypto/tls it is temporary: reading goes on later.
type nothing struct{}

var errNothing net.Error = nothing{}

func (nothing) Error() string   { return "nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// wire is a TCP connection that can be read without waiting.
type wire struct {
	net.Conn
	raw    syscall.RawConn
	atOnce bool
	// try reads into buf; n and err are its result.
	try func(fd uintptr) bool
	buf []byte
	n   int
	err error
}

func newWire(c net.Conn) (*wire, error) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("connection %T has no descriptor", c)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c, raw: raw}
	w.try = func(fd uintptr) bool {
		w.n, w.err = syscall.Read(int(fd), w.buf)
		return true
	}
	return w, nil
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if !w.atOnce {
		return w.Conn.Read(p)
	}
	w.buf = p
	err := w.raw.Read(w.try)
	w.buf = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(w.err, syscall.EAGAIN):
		return 0, errNothing
	case w.err != nil:
		return 0, w.err
	case w.n == 0:
		return 0, io.EOF
	}
	return w.n, nil
}
