package wsconn

import (
	"errors"
	"net"
	"sync"
	"time"
)

// errBudget means that a peer sent more bytes than an answer header may have.
var errBudget = errors.New("the answer header is too long")

// link is the transport connection under a WebSocket. It replays bytes that were read ahead, and it merges three owners of
// deadlines that know nothing of each other: the WebSocket library, the user of the Conn, and the preamble's absolute end.
type link struct {
	net.Conn
	// remote is the other end, by name.
	remote named
	// release frees the preamble slot of this connection, nil if there is none; it may be called more than once.
	release func()

	// prefix and budget belong to the one goroutine that reads. budget is how many bytes may still come; negative is endless.
	prefix []byte
	budget int64
	// ahead reads instead of Conn once the preamble is over; nil before, and where there is none.
	ahead *readAhead

	// mu guards the deadlines below; zero means none.
	mu        sync.Mutex
	end       time.Time // absolute, for both directions, until lifted
	read      time.Time
	libWrite  time.Time
	userWrite time.Time
	applied   time.Time // the write deadline in force
}

func newLink(conn net.Conn, prefix []byte, release func()) *link {
	l := &link{Conn: conn, prefix: prefix, release: release, budget: -1}
	if remote := conn.RemoteAddr(); remote != nil {
		l.remote = named{remote, remote.String()}
	}
	return l
}

// named is an address whose text is made once: every stream of every agent asks for it, deep in its stack.
type named struct {
	net.Addr
	text string
}

// String implements net.Addr.
func (n named) String() string { return n.text }

// RemoteAddr is the address of the other end.
func (l *link) RemoteAddr() net.Addr {
	if l.remote.Addr == nil {
		return nil
	}
	return &l.remote
}

func (l *link) Read(p []byte) (int, error) {
	if len(l.prefix) > 0 {
		n := copy(p, l.prefix)
		l.prefix = l.prefix[n:]
		return n, nil
	}
	if l.ahead != nil {
		return l.ahead.Read(p)
	}
	if l.budget < 0 {
		return l.Conn.Read(p)
	}
	if l.budget == 0 {
		return 0, errBudget
	}
	if int64(len(p)) > l.budget {
		p = p[:l.budget]
	}
	n, err := l.Conn.Read(p)
	l.budget -= int64(n)
	return n, err
}

// readAhead begins to read more than is asked for, with a buffer only while there is something to read.
func (l *link) readAhead() { l.ahead = newReadAhead(l.Conn) }

func (l *link) Close() error {
	err := l.Conn.Close()
	if l.release != nil {
		l.release()
	}
	return err
}

// SetDeadline is what the WebSocket library and net/http call; so are the two below.
func (l *link) SetDeadline(t time.Time) error {
	return errors.Join(l.SetReadDeadline(t), l.SetWriteDeadline(t))
}

func (l *link) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = t
	return l.Conn.SetReadDeadline(earliest(t, l.end))
}

func (l *link) SetWriteDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.libWrite = t
	return l.applyWrite()
}

// setUserWriteDeadline bounds writes for the user of the Conn, also the one that is under way.
func (l *link) setUserWriteDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.userWrite = t
	return l.applyWrite()
}

// setEnd sets the moment at which everything on the connection ends, or lifts it with the zero time.
func (l *link) setEnd(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = t
	return errors.Join(l.Conn.SetReadDeadline(earliest(l.read, t)), l.applyWrite())
}

// applyWrite puts the write deadline in force; l.mu is held. It is called for every frame, so it does nothing when nothing
// changed.
func (l *link) applyWrite() error {
	t := earliest(earliest(l.libWrite, l.userWrite), l.end)
	if t.Equal(l.applied) {
		return nil
	}
	l.applied = t
	return l.Conn.SetWriteDeadline(t)
}

// earliest is the earlier of two deadlines, where the zero time means none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
