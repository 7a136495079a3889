package wsconn

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// patience is how long a connection may be silent before a newer one may take its place when all places are taken. Real
// clients speak at once; it leaves those behind a long line, and a herd of them behind a busy CPU, enough time.
const patience = time.Second

// admission bounds the connections that have not yet shown what they are. When all places are taken it closes the oldest
// connection that was given its second, so that whoever opens connections and says nothing only pushes out its own.
type admission struct {
	max   int
	freed chan struct{} // gets a token when a place is freed

	// mu guards order: *place values, the oldest first.
	mu    sync.Mutex
	order *list.List
}

type place struct {
	conn  net.Conn
	since time.Time
}

func newAdmission(places int) *admission {
	return &admission{max: places, freed: make(chan struct{}, 1), order: list.New()}
}

// admit waits for a place for conn. The returned function frees it and may be called more than once.
func (a *admission) admit(ctx context.Context, conn net.Conn) (func(), error) {
	for {
		release, wait := a.try(conn)
		if release != nil {
			return release, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-a.freed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

// try takes a place, or says how long to wait for the oldest connection to have had its second.
func (a *admission) try(conn net.Conn) (func(), time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.order.Len() >= a.max {
		oldest := a.order.Front()
		p := oldest.Value.(*place)
		if age := now.Sub(p.since); age < patience {
			return nil, patience - age
		}
		a.order.Remove(oldest)
		_ = p.conn.Close()
	}
	e := a.order.PushBack(&place{conn: conn, since: now})
	var once sync.Once
	return func() { once.Do(func() { a.leave(e) }) }, 0
}

func (a *admission) leave(e *list.Element) {
	a.mu.Lock()
	a.order.Remove(e) // does nothing if it was pushed out
	a.mu.Unlock()
	select {
	case a.freed <- struct{}{}:
	default:
	}
}

// closeAll ends every connection that still has a place.
func (a *admission) closeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for e := a.order.Front(); e != nil; e = e.Next() {
		_ = e.Value.(*place).conn.Close()
	}
}
