package server

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"

	"gitlab.com/agentk/agentk/internal/fault"
)

// batches shares each batch among all who ask for the same at the same time, and keeps what all of them take within one budget.
type batches struct {
	base context.Context
	stop context.CancelFunc
	// reserve is what one batch may take while it is read, in bytes; room is what all may take.
	reserve int64
	room    *semaphore.Weighted
	running sync.WaitGroup

	// mu guards what follows and the holders of every flight.
	mu     sync.Mutex
	closed bool
	flying map[string]*flight
}

// flight is one batch, read or being read.
type flight struct {
	holders int
	cancel  context.CancelFunc
	landed  chan struct{}
	// What follows is set before landed is closed. held is what the batch takes of the room.
	batch *batch
	err   error
	held  int64
}

func newBatches(reserve, limit int64) *batches {
	b := &batches{reserve: reserve, room: semaphore.NewWeighted(max(limit, reserve)), flying: map[string]*flight{}}
	b.base, b.stop = context.WithCancel(context.Background())
	return b
}

// get returns the batch that load returned to this or another caller with the same key. Until release is called it is there, and
// takes its part of the budget.
func (b *batches) get(ctx context.Context, key string, load func(context.Context) (*batch, error)) (got *batch, release func(), err error) {
	f := b.join(key, load)
	if f == nil {
		return nil, nil, fault.New(fault.Unavailable, fault.Kas, "kas is shutting down")
	}
	select {
	case <-f.landed:
	case <-ctx.Done():
		b.leave(key, f)
		return nil, nil, ctx.Err()
	}
	if f.err != nil {
		b.leave(key, f)
		return nil, nil, f.err
	}
	return f.batch, func() { b.leave(key, f) }, nil
}

// join returns the flight of a key, nil when there are no more.
func (b *batches) join(key string, load func(context.Context) (*batch, error)) *flight {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	f := b.flying[key]
	if f == nil {
		f = &flight{landed: make(chan struct{})}
		b.flying[key] = f
		ctx, cancel := context.WithTimeout(b.base, loadTimeout)
		f.cancel = cancel
		b.running.Go(func() {
			defer cancel()
			b.fly(ctx, key, f, load)
		})
	}
	f.holders++
	return f
}

func (b *batches) fly(ctx context.Context, key string, f *flight, load func(context.Context) (*batch, error)) {
	f.err = b.room.Acquire(ctx, b.reserve)
	if f.err == nil {
		f.held = b.reserve
		if f.batch, f.err = load(ctx); f.err == nil {
			f.held = min(f.batch.size, b.reserve)
		}
		b.room.Release(b.reserve - f.held)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.err != nil && b.flying[key] == f {
		delete(b.flying, key) // whoever asks next tries again
	}
	close(f.landed)
	if f.holders == 0 {
		b.drop(f)
	}
}

// leave gives a batch up; the last one to do so ends its reading and frees its room.
func (b *batches) leave(key string, f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.holders--
	if f.holders > 0 {
		return
	}
	if b.flying[key] == f {
		delete(b.flying, key)
	}
	f.cancel()
	select {
	case <-f.landed:
		b.drop(f)
	default: // fly does it
	}
}

// drop frees the room of a batch that has landed and that nobody holds; mu is held.
func (b *batches) drop(f *flight) {
	b.room.Release(f.held)
	f.held, f.batch = 0, nil
}

// close ends what is being read and waits for it.
func (b *batches) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.running.Wait()
}

// maxTurns is how many batches one agent may have at the same time, so that it leaves room for others.
const maxTurns = 4

// turns lets each agent have a few batches at a time.
type turns struct {
	// mu guards agents and their users.
	mu     sync.Mutex
	agents map[int64]*turn
}

type turn struct {
	free  chan struct{}
	users int
}

func newTurns() *turns { return &turns{agents: map[int64]*turn{}} }

// begin waits for a turn of the agent; end gives it back.
func (t *turns) begin(ctx context.Context, agentID int64) (end func(), err error) {
	t.mu.Lock()
	mine := t.agents[agentID]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, maxTurns)}
		t.agents[agentID] = mine
	}
	mine.users++
	t.mu.Unlock()
	select {
	case mine.free <- struct{}{}:
		return func() {
			<-mine.free
			t.forget(agentID, mine)
		}, nil
	case <-ctx.Done():
		t.forget(agentID, mine)
		return nil, ctx.Err()
	}
}

func (t *turns) forget(agentID int64, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mine.users--; mine.users == 0 {
		delete(t.agents, agentID)
	}
}
