package wsconn

import (
	"net"
	"sync"
)

// queue is a net.Listener of connections that were accepted elsewhere. It holds none: put waits for an Accept.
type queue struct {
	addr    net.Addr
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
	onClose func()
}

func newQueue(addr net.Addr) *queue {
	q := &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	q.onClose = q.shut
	return q
}

// put hands a connection over; false means that the queue is closed and the connection is still the caller's.
func (q *queue) put(conn net.Conn) bool {
	select {
	case <-q.done:
		return false
	default:
	}
	select {
	case q.conns <- conn:
		return true
	case <-q.done:
		return false
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close tells the owner, who calls shut.
func (q *queue) Close() error {
	q.onClose()
	return nil
}

// shut ends put and Accept, now and later.
func (q *queue) shut() { q.once.Do(func() { close(q.done) }) }

func (q *queue) Addr() net.Addr { return q.addr }
