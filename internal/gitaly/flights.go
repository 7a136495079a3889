package gitaly

import (
	"context"
	"sync"

	"gitlab.com/agentk/agentk/internal/fault"
)

// flights shares one call among all who ask for the same. An answer must not be older than the question: somebody asks because of
// a push that a running call may just have missed. So a flight takes passengers only until it departs, that is until its call is
// sent; those who come later take the next one, which departs when the one before has landed.
type flights[T any] struct {
	base context.Context

	// mu guards closed, lanes and what is in them, and every flight's passengers.
	mu      sync.Mutex
	closed  bool
	lanes   map[string]*lane[T]
	running sync.WaitGroup
}

// lane is all flights with the same key: one under way and one that waits, either may be nil.
type lane[T any] struct{ flying, boarding *flight[T] }

type flight[T any] struct {
	passengers int
	cancel     context.CancelFunc
	landed     chan struct{}
	// value and err are set before landed is closed.
	value T
	err   error
}

// newFlights returns flights that are all cut off when base ends.
func newFlights[T any](base context.Context) *flights[T] {
	return &flights[T]{base: base, lanes: map[string]*lane[T]{}}
}

var errClosed = fault.New(fault.Unavailable, fault.Git, "the Gitaly client is closed")

// do returns what call returned to this or another caller with the same key. call must call depart before it asks the server. Its
// context ends when nobody waits for the answer any more.
func (f *flights[T]) do(ctx context.Context, key string, call func(ctx context.Context, depart func()) (T, error)) (T, error) {
	var none T
	joined := f.board(key, call)
	if joined == nil {
		return none, errClosed
	}
	select {
	case <-joined.landed:
	case <-ctx.Done():
		f.leave(key, joined)
		return none, ctx.Err()
	}
	if joined.err != nil && f.base.Err() != nil {
		return none, errClosed
	}
	return joined.value, joined.err
}

// board returns the flight that takes this caller along, nil when there are no more flights.
func (f *flights[T]) board(key string, call func(ctx context.Context, depart func()) (T, error)) *flight[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	l := f.lanes[key]
	if l == nil {
		l = &lane[T]{}
		f.lanes[key] = l
	}
	if l.boarding == nil {
		ctx, cancel := context.WithCancel(f.base)
		next, before := &flight[T]{cancel: cancel, landed: make(chan struct{})}, l.flying
		l.boarding = next
		f.running.Go(func() {
			defer cancel()
			defer f.land(key, next)
			if next.err = before.wait(ctx); next.err == nil {
				next.value, next.err = call(ctx, func() { f.depart(key, next) })
			}
		})
	}
	l.boarding.passengers++
	return l.boarding
}

// wait returns when a flight has landed; there may be none.
func (x *flight[T]) wait(ctx context.Context) error {
	if x == nil {
		return nil
	}
	select {
	case <-x.landed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *flights[T]) depart(key string, departed *flight[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.lanes[key]; l != nil && l.boarding == departed {
		l.boarding, l.flying = nil, departed
	}
}

func (f *flights[T]) land(key string, landed *flight[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(key, landed)
	close(landed.landed)
}

// remove needs mu.
func (f *flights[T]) remove(key string, gone *flight[T]) {
	l := f.lanes[key]
	if l == nil {
		return
	}
	if l.boarding == gone {
		l.boarding = nil
	}
	if l.flying == gone {
		l.flying = nil
	}
	if l.boarding == nil && l.flying == nil {
		delete(f.lanes, key)
	}
}

// leave gives up waiting; the last one to do so ends the call.
func (f *flights[T]) leave(key string, left *flight[T]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	left.passengers--
	if left.passengers > 0 {
		return
	}
	f.remove(key, left)
	left.cancel()
}

// wait ends boarding and returns when nothing runs any more. It is called after base has ended.
func (f *flights[T]) wait() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.running.Wait()
}
