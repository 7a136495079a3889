//go:build unix

package wsconn

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// canWaitReadable: a read can be tried without waiting, and the wait left to the runtime.
const canWaitReadable = true

// tryRead reads once into a buffer; false means that there is nothing yet. It is called again when there is.
func (r *readAhead) tryRead(fd uintptr) bool {
	r.buf = readBuffers.Get().(*[readAheadSize]byte)
	n, err := syscall.Read(int(fd), r.buf[:])
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(int(fd), r.buf[:])
	}
	r.err = nil
	switch {
	case n > 0:
		r.rest = r.buf[:n]
		return true
	case err == nil:
		r.err = io.EOF
	case !errors.Is(err, syscall.EAGAIN):
		r.err = &net.OpError{
			Op: "read", Net: "tcp", Source: r.conn.LocalAddr(), Addr: r.conn.RemoteAddr(), Err: os.NewSyscallError("read", err),
		}
	}
	r.drop()
	return r.err != nil
}
