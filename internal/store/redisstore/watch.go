package redisstore

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// lookAgain is how long what was read is believed without news, and deafLookAgain while no news can come. An agent that nobody
	// watches any more is forgotten after that time: until then the next watcher costs Redis nothing.
	lookAgain     = 2 * time.Minute
	deafLookAgain = 5 * time.Second
	// expiryJitter is the most that an expired location is noticed late.
	expiryJitter = 500 * time.Millisecond
	// retryRead is how long to wait after Redis could not be read.
	retryRead = 500 * time.Millisecond
	// maxIdle is how many agents that nobody watches any more are remembered.
	maxIdle = 10_000
)

// watcher holds one list: a newer one replaces what was not received yet.
type watcher struct{ ch chan []string }

func (w *watcher) offer(locations []string) {
	select {
	case <-w.ch:
	default:
	}
	w.ch <- locations
}

// watched is an agent that somebody watches or has watched lately.
type watched struct {
	watchers map[*watcher]struct{}
	fields   []field   // as last read
	told     []string  // what the watchers know
	known    bool      // told holds something: the first read is over
	stale    bool      // must be read
	due      time.Time // when to look again
}

// watchBoard is all agents that are watched in this process. One goroutine reads their locations, many at once.
type watchBoard struct {
	// wake tells the reader that something is stale.
	wake chan struct{}

	// mu guards all below. Nothing under it waits: only holders of mu send to watchers.
	mu     sync.Mutex
	agents map[int64]*watched
	deaf   bool // no news can come
	again  func()
}

func newWatchBoard() *watchBoard {
	return &watchBoard{wake: make(chan struct{}, 1), agents: map[int64]*watched{}, deaf: true, again: func() {}}
}

// Watch implements store.Tunnels. While Redis cannot be read the last known locations stay.
func (s *Store) Watch(ctx context.Context, agentID int64) <-chan []string {
	w := &watcher{ch: make(chan []string, 1)}
	b := s.watch
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.agents[agentID]
	if a == nil {
		a = &watched{watchers: map[*watcher]struct{}{}, stale: true}
		b.agents[agentID] = a
	}
	a.watchers[w] = struct{}{}
	if !a.known && s.health.refuse() != nil {
		a.known = true // nothing can be learned now
	}
	if a.known {
		w.offer(a.told)
	}
	if a.stale {
		poke(b.wake)
	}
	context.AfterFunc(ctx, func() { b.leave(agentID, w) })
	return w.ch
}

func (b *watchBoard) leave(agentID int64, w *watcher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.agents[agentID]
	delete(a.watchers, w)
	close(w.ch)
	if len(a.watchers) == 0 && (a.stale || b.deaf || len(b.agents) > maxIdle) {
		delete(b.agents, agentID)
	}
}

// changed notes that the locations of an agent are not what was read.
func (b *watchBoard) changed(agentID int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, ok := b.agents[agentID]; ok {
		b.spoil(agentID, a)
	}
}

func (b *watchBoard) changedAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, a := range b.agents {
		b.spoil(id, a)
	}
}

func (b *watchBoard) spoil(agentID int64, a *watched) {
	if len(a.watchers) == 0 {
		delete(b.agents, agentID)
		return
	}
	a.stale = true
	poke(b.wake)
}

func (b *watchBoard) setDeaf(deaf bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deaf = deaf
}

// onRestart sets what ends the subscription of now, restart does it.
func (b *watchBoard) onRestart(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.again = f
}

func (b *watchBoard) restart() {
	b.mu.Lock()
	again := b.again
	b.mu.Unlock()
	again()
}

// take returns the agents to be read now, and how long to wait until there may be more. What is due is stale.
func (b *watchBoard) take(now time.Time) (ids []int64, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait = lookAgain
	for id, a := range b.agents {
		if !a.stale && now.Before(a.due) {
			wait = min(wait, a.due.Sub(now))
			continue
		}
		if len(a.watchers) == 0 {
			delete(b.agents, id)
			continue
		}
		a.stale = false
		ids = append(ids, id)
	}
	return ids, wait
}

// read notes what an agent's locations are, and tells its watchers if they have changed. A location whose end had passed before this
// read may have been away in between: that it is there is told again.
func (b *watchBoard) read(agentID int64, fields []field, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.agents[agentID]
	if !ok {
		return
	}
	was := urls(a.fields, now)
	a.fields = fields
	a.due = now.Add(lookAgain + rand.N(lookAgain/4))
	if b.deaf {
		a.due = now.Add(deafLookAgain + rand.N(deafLookAgain/4))
	}
	for _, f := range fields {
		if end := f.expiry.Add(rand.N(expiryJitter)); end.Before(a.due) {
			a.due = end
		}
	}
	is := urls(fields, now)
	if a.known && slices.Equal(is, a.told) && slices.Equal(is, was) {
		return
	}
	a.known, a.told = true, is
	for w := range a.watchers {
		w.offer(is)
	}
}

// unread notes that agents could not be read: watchers who know nothing yet learn that nothing is known.
func (b *watchBoard) unread(ids []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		a, ok := b.agents[id]
		if !ok {
			continue
		}
		a.stale = true
		if !a.known {
			a.known = true
			for w := range a.watchers {
				w.offer(nil)
			}
		}
	}
}

// keepWatch reads what has to be read until ctx ends.
func (s *Store) keepWatch(ctx context.Context) {
	for {
		ids, wait := s.watch.take(s.now())
		wake := s.watch.wake
		if len(ids) > 0 {
			if s.readWatched(ctx, ids) {
				continue // what was read says when to look again
			}
			wait, wake = retryRead+rand.N(retryRead), nil
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(wait):
		}
	}
}

// readWatched reads the locations of agents. It returns false if it could not.
func (s *Store) readWatched(ctx context.Context, ids []int64) bool {
	for part := range slices.Chunk(ids, batch) {
		var keys []string
		for _, id := range part {
			keys = append(keys, s.tunnelKey(id))
		}
		hashes, err := s.read(ctx, "watch", keys)
		if err != nil {
			s.watch.unread(ids)
			return false
		}
		for i, id := range part {
			s.watch.read(id, hashes[i], s.now())
		}
		ids = ids[len(part):]
	}
	return true
}
