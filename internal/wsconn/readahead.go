package wsconn

import (
	"net"
	"sync"
	"syscall"
)

// readAheadSize takes two frames of the HTTP/2 transport in one system call.
const readAheadSize = 32 << 10

// readBuffers is shared by all connections: a buffer is held only while it has bytes, so idle agents cost none.
var readBuffers = sync.Pool{New: func() any { return new([readAheadSize]byte) }}

// readAhead reads a TCP connection ahead. It takes its buffer when bytes are there and gives it back when they are read, while an
// ordinary buffered reader waits with the buffer in its hands. It belongs to one reading goroutine.
type readAhead struct {
	conn net.Conn
	raw  syscall.RawConn
	// fill is readAhead.tryRead, kept because making it anew would be an allocation per read.
	fill func(fd uintptr) bool

	buf  *[readAheadSize]byte // nil while it would be empty
	rest []byte               // the unread part of buf
	err  error                // of the latest fill
}

// newReadAhead is nil for connections that are not plain TCP: TLS keeps its own buffer, of which it gives as little as is asked for.
func newReadAhead(conn net.Conn) *readAhead {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || !canWaitReadable {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	r := &readAhead{conn: conn, raw: raw}
	r.fill = r.tryRead
	return r
}

func (r *readAhead) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if len(p) == 0 || len(p) >= readAheadSize {
			return r.conn.Read(p)
		}
		if err := r.raw.Read(r.fill); err != nil {
			return 0, err
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) == 0 {
		r.drop()
	}
	return n, nil
}

// drop gives the buffer back.
func (r *readAhead) drop() {
	readBuffers.Put(r.buf)
	r.buf, r.rest = nil, nil
}
