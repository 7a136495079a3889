package route

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// keepWatch is how long the locations of an agent are followed after the last request for it: the next one finds its way
	// without a question to the store.
	keepWatch = 5 * time.Minute
	// maxIdleWatches bounds the agents that are followed while nobody asks for them; the one unused for longest gives way.
	maxIdleWatches = 5000
	// sweepWatches is how often watches that nobody needs any more are ended.
	sweepWatches = 30 * time.Second
	// keepSeen is how long it is believed when an agent was last seen, askSeen bounds the question.
	keepSeen = 30 * time.Second
	askSeen  = 3 * time.Second
)

// watches follows where agents are: one watch of the store for each agent, however many requests wait for it.
type watches struct {
	own      string
	locate   func(ctx context.Context, agentID int64) <-chan []string
	lastSeen func(ctx context.Context, agentID int64) (time.Time, bool, error)
	ctx      context.Context // ends all watches; they outlive the requests that began them
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu sync.Mutex
	// mu guards the fields below and those of the watches that say so. idle holds *watch, unused for longest first.
	agents map[int64]*watch
	idle   list.List
	ended  bool
}

// watch follows one agent.
type watch struct {
	agentID int64
	end     context.CancelFunc
	// Guarded by mu of watches.
	users   int
	element *list.Element
	unused  time.Time

	mu sync.Mutex
	// mu guards the fields below. changed is closed when urls or known change. urls holds no own one.
	known   bool
	urls    []string
	changed chan struct{}
	// left is when the last location was gone. hot is the location that has served a request lately.
	left time.Time
	hot  string

	// asking holds one token, for who asks the store when the agent was last seen; it guards the fields below.
	asking chan struct{}
	seen   time.Time
	asked  time.Time
}

func newWatches(own string, locate func(context.Context, int64) <-chan []string, lastSeen func(context.Context, int64) (time.Time, bool, error)) *watches {
	w := &watches{own: own, locate: locate, lastSeen: lastSeen, agents: map[int64]*watch{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// run ends watches that nobody needs, and at the end of ctx all of them.
func (w *watches) run(ctx context.Context) {
	ticker := time.NewTicker(sweepWatches)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			w.sweep(now)
		case <-ctx.Done():
			w.mu.Lock()
			w.ended = true
			w.mu.Unlock()
			w.cancel()
			w.running.Wait()
			return
		}
	}
}

// get returns the watch of an agent; put gives it back.
func (w *watches) get(agentID int64) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.agents[agentID]
	if one == nil {
		one = &watch{agentID: agentID, changed: make(chan struct{}), asking: make(chan struct{}, 1)}
		if w.ended {
			one.end = func() {}
			one.users++
			return one
		}
		ctx, cancel := context.WithCancel(w.ctx)
		one.end = cancel
		w.agents[agentID] = one
		w.running.Go(func() { one.follow(w.locate(ctx, agentID), w.own) })
	}
	one.users++
	if one.element != nil {
		w.idle.Remove(one.element)
		one.element = nil
	}
	return one
}

func (w *watches) put(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one.users--
	if one.users > 0 || w.agents[one.agentID] != one {
		return
	}
	one.unused = time.Now()
	one.element = w.idle.PushBack(one)
	if w.idle.Len() > maxIdleWatches {
		w.drop(w.idle.Front().Value.(*watch))
	}
}

func (w *watches) sweep(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := w.idle.Front(); e != nil; e = w.idle.Front() {
		one := e.Value.(*watch)
		if now.Sub(one.unused) < keepWatch {
			return
		}
		w.drop(one)
	}
}

// drop ends an idle watch. mu is held.
func (w *watches) drop(one *watch) {
	w.idle.Remove(one.element)
	one.element = nil
	delete(w.agents, one.agentID)
	one.end()
}

// follow takes over what the store says, until it says no more.
func (x *watch) follow(locations <-chan []string, own string) {
	for urls := range locations {
		urls = slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return u == own })
		x.mu.Lock()
		if len(urls) == 0 && len(x.urls) > 0 {
			x.left = time.Now()
		}
		if !x.known || !slices.Equal(urls, x.urls) {
			x.known, x.urls = true, urls
			close(x.changed)
			x.changed = make(chan struct{})
		}
		x.mu.Unlock()
	}
}

// locations are the other replicas that hold tunnels of the agent. known: the store has said so. changed is closed when that
// is not so any more.
func (x *watch) locations() (urls []string, known bool, changed <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.urls, x.known, x.changed
}

// warm is the only location if it has served a request lately, otherwise "".
func (x *watch) warm() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.urls) == 1 && x.urls[0] == x.hot {
		return x.hot
	}
	return ""
}

// heat notes that a location has served a request, cool that it has not.
func (x *watch) heat(url string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hot = url
}

func (x *watch) cool() { x.heat("") }

// lastSeenOf is when the agent was last seen by any replica; zero: not known. The answer may be keepSeen old.
func (w *watches) lastSeenOf(ctx context.Context, x *watch) time.Time {
	x.mu.Lock()
	left, here := x.left, len(x.urls) > 0
	x.mu.Unlock()
	if here {
		return time.Now()
	}
	select {
	case x.asking <- struct{}{}:
	case <-ctx.Done():
		return left
	}
	defer func() { <-x.asking }()
	if x.asked.IsZero() || time.Since(x.asked) > keepSeen {
		ctx, cancel := context.WithTimeout(ctx, askSeen)
		defer cancel()
		// An error is no answer; the next one to ask will not hammer a store in trouble.
		if seen, ok, err := w.lastSeen(ctx, x.agentID); err == nil && ok {
			x.seen = seen
		}
		x.asked = time.Now()
	}
	if left.After(x.seen) {
		return left
	}
	return x.seen
}
