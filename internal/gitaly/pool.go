package gitaly

import (
	"sync"
	"time"

	"google.golang.org/grpc"
)

// idleTime is how long a connection is kept without a call: longer than the usual poll period, so that polling does not reconnect.
const idleTime = 15 * time.Minute

// connKey tells connections apart. A new token is a new connection, so that calls never carry a token that is not their own.
type connKey struct{ address, token string }

// pool holds one connection for every server and token.
type pool struct {
	dial func(address, token string) (*grpc.ClientConn, error)
	now  func() time.Time

	// mu guards what follows. Nothing is dialled or waited for under it.
	mu     sync.Mutex
	closed bool
	conns  map[connKey]*pooled
}

type pooled struct {
	cc    *grpc.ClientConn
	users int
	// idle is when the last user left.
	idle time.Time
}

func newPool(dial func(address, token string) (*grpc.ClientConn, error), now func() time.Time) *pool {
	return &pool{dial: dial, now: now, conns: map[connKey]*pooled{}}
}

// borrow returns a connection that stays open until release is called. Errors say what is wrong with the address.
func (p *pool) borrow(address, token string) (cc *grpc.ClientConn, release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, errClosed
	}
	key := connKey{address, token}
	conn := p.conns[key]
	if conn == nil {
		cc, err := p.dial(address, token) // only prepares, does not connect
		if err != nil {
			return nil, nil, err
		}
		conn = &pooled{cc: cc}
		p.conns[key] = conn
	}
	conn.users++
	return conn.cc, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		conn.users--
		conn.idle = p.now()
	}, nil
}

// reap closes what nobody has used for long.
func (p *pool) reap() {
	var old []*grpc.ClientConn
	p.mu.Lock()
	for key, conn := range p.conns {
		if conn.users == 0 && p.now().Sub(conn.idle) >= idleTime {
			old = append(old, conn.cc)
			delete(p.conns, key)
		}
	}
	p.mu.Unlock()
	for _, cc := range old {
		_ = cc.Close()
	}
}

// inUse says whether there is a connection to an address.
func (p *pool) inUse(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.conns {
		if key.address == address {
			return true
		}
	}
	return false
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.cc.Close()
	}
}
