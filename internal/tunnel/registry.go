package tunnel

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	shardCount = 256
	// minIdle parked streams per connection are never retired: the agent would reopen them at once.
	minIdle = 2
	// retireAfter is how long a surplus stream stays parked. Agents stop a slot only when it was not used for a minute.
	retireAfter = time.Minute
	// maxWaiters bounds the queue for one agent; more requests than that are answered at once.
	maxWaiters = 10000
	// rememberGone is how long the registry knows when an agent was last here.
	rememberGone = 24 * time.Hour
)

// RegistryConfig configures a Registry.
type RegistryConfig struct {
	Registerer prometheus.Registerer
	// DescriptorTimeout is how long a peer may be silent before its descriptor. 0: 20 s.
	DescriptorTimeout time.Duration
	// Changed is called with no lock held when an agent's first stream has come or its last one has gone. It must not wait.
	// Calls may overtake each other: Presence says how things stand. nil: nobody wants to know.
	Changed func(agentID int64)
}

// Registry holds the parked streams of the agents connected to this kas.
type Registry struct {
	cfg     RegistryConfig
	metrics registryMetrics
	shards  [shardCount]shard
	// stop ends idle streams with OK when kas drains.
	stop     chan struct{}
	stopOnce sync.Once
}

// shard holds the agents whose id falls on it. mu guards all below it, down to the tunnels while they are parked.
type shard struct {
	mu     sync.Mutex
	agents map[int64]*agentStreams
	// gone says when an agent's last stream ended, for rememberGone.
	gone map[int64]time.Time
}

// agentStreams is what is known of one agent with streams or waiting requests.
type agentStreams struct {
	conns   []*connStreams
	next    int       // where the next search starts, so that connections share the load
	waiters list.List // of *waiter, oldest first
	streams int       // entering, parked, busy and ending
}

// connStreams are the streams of one agent pod on one transport connection. A reverse proxy may put those of several pods on one.
type connStreams struct {
	peer string
	desc *descriptor // that of the newest stream, kept to share it
	idle list.List   // of *stream, most recently parked first
	busy int         // handed out
	// leaving: the pod is about to stop, so its streams end instead of being parked.
	leaving bool
	refs    int // streams, parked and busy
}

// waiter is a request that waits for a stream.
type waiter struct {
	wanted []string
	found  chan *Tunnel // buffered: handing over never blocks; closed: the agent is here, and does not announce what is wanted
}

// NewRegistry returns an empty registry. Run must be running for streams to be retired.
func NewRegistry(cfg RegistryConfig) *Registry {
	if cfg.DescriptorTimeout == 0 {
		cfg.DescriptorTimeout = descriptorTimeout
	}
	if cfg.Changed == nil {
		cfg.Changed = func(int64) {}
	}
	r := &Registry{cfg: cfg, stop: make(chan struct{})}
	r.metrics = newRegistryMetrics(cfg.Registerer, r)
	for i := range r.shards {
		r.shards[i].agents = map[int64]*agentStreams{}
		r.shards[i].gone = map[int64]time.Time{}
	}
	return r
}

// Run retires surplus streams until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	ticker := time.NewTicker(retireAfter / 6)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			r.retire(now)
		}
	}
}

// Stop ends every parked stream with OK, now and in the future. Calls in flight go on.
func (r *Registry) Stop() { r.stopOnce.Do(func() { close(r.stop) }) }

func (r *Registry) shard(agentID int64) *shard { return &r.shards[uint64(agentID)%shardCount] }

// Presence is what the registry knows of an agent's streams.
type Presence struct {
	Connected bool
	Idle      int
	Busy      int
	// Saturated: every connection holds as many busy streams as the agent allows it.
	Saturated bool
	// LastSeen is when the last stream ended, for an agent that is not connected; zero: not within the last day.
	LastSeen time.Time
}

// Presence looks an agent up.
func (r *Registry) Presence(agentID int64) Presence {
	s := r.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	if a == nil || len(a.conns) == 0 {
		return Presence{LastSeen: s.gone[agentID]}
	}
	p := Presence{Connected: true, Saturated: a.saturated()}
	for _, c := range a.conns {
		p.Idle += c.idle.Len()
		p.Busy += c.busy
	}
	return p
}

// Announces says whether any stream of the agent, parked or busy, announces all wanted "service/method", and whether the agent
// has any stream at all.
func (r *Registry) Announces(agentID int64, wanted ...string) (announced, connected bool) {
	s := r.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agentID]
	if a == nil {
		return false, false
	}
	return a.announces(wanted), len(a.conns) > 0
}

// announces says whether any stream announces all that is wanted. The shard's mutex is held.
func (a *agentStreams) announces(wanted []string) bool {
	for _, c := range a.conns {
		if c.desc.has(wanted...) {
			return true
		}
	}
	return false
}

// TryFind takes a parked stream that announces all wanted "service/method", or returns nil.
func (r *Registry) TryFind(agentID int64, wanted ...string) *Tunnel {
	s := r.shard(agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.agents[agentID]; a != nil {
		return a.take(r, wanted)
	}
	return nil
}

// Unsupported is the error of requests that need what no stream of their agent announces, a fault InvalidArgument.
func Unsupported(wanted []string) error {
	return fault.New(fault.InvalidArgument, fault.Agent, "agent does not support what this request needs: %v", wanted)
}

// Find takes a parked stream, or waits for one until ctx ends. Errors: fault ResourceExhausted when the agent has no stream
// left to give or too many requests wait, InvalidArgument when a stream comes and the agent turns out to lack what is wanted,
// Unavailable when kas stops, otherwise the context's error.
func (r *Registry) Find(ctx context.Context, agentID int64, wanted ...string) (*Tunnel, error) {
	s := r.shard(agentID)
	s.mu.Lock()
	a := s.agents[agentID]
	if a == nil {
		a = &agentStreams{}
		s.agents[agentID] = a
	}
	if t := a.take(r, wanted); t != nil {
		s.mu.Unlock()
		return t, nil
	}
	if a.saturated() || a.waiters.Len() >= maxWaiters {
		s.mu.Unlock()
		r.metrics.saturated.Inc()
		return nil, &fault.Error{
			Kind: fault.ResourceExhausted, Hop: fault.Agent, RetryAfter: time.Second,
			Msg: "agent serves as many requests as it may at once",
		}
	}
	w := &waiter{wanted: wanted, found: make(chan *Tunnel, 1)}
	element := a.waiters.PushBack(w)
	s.mu.Unlock()

	var err error
	select {
	case t := <-w.found:
		return t.orUnsupported(wanted)
	case <-ctx.Done():
		err = ctx.Err()
	case <-r.stop:
		err = fault.New(fault.Unavailable, fault.Kas, "kas is shutting down")
	}
	s.mu.Lock()
	a.waiters.Remove(element) // does nothing when a stream was handed over meanwhile
	s.forget(agentID, a)
	s.mu.Unlock()
	select {
	case t := <-w.found:
		return t.orUnsupported(wanted)
	default:
		return nil, err
	}
}

// orUnsupported explains why there is no stream.
func (t *Tunnel) orUnsupported(wanted []string) (*Tunnel, error) {
	if t == nil {
		return nil, Unsupported(wanted)
	}
	return t, nil
}

// take removes the most recently parked stream that matches from the idle ones, starting at another connection each time. Streams that
// have ended and are about to be withdrawn stay.
// Most recent first lets surplus streams grow old and be retired.
func (a *agentStreams) take(r *Registry, wanted []string) *Tunnel {
	for i := range a.conns {
		c := a.conns[(a.next+i)%len(a.conns)]
		for e := c.idle.Front(); e != nil; e = e.Next() {
			if t := e.Value.(*stream); t.rpc.Context().Err() == nil && t.desc.has(wanted...) {
				c.idle.Remove(e)
				a.next = (a.next + i + 1) % len(a.conns)
				return t.hand(r, a)
			}
		}
	}
	return nil
}

// hand gives a stream to a caller, for one call. The shard's mutex is held.
func (t *stream) hand(r *Registry, a *agentStreams) *Tunnel {
	t.element = nil
	t.handed = true
	t.conn.busy++
	return &Tunnel{registry: r, stream: t, waiting: a.waiters.Len(), last: frame.ConnectDescriptor}
}

func (a *agentStreams) saturated() bool {
	for _, c := range a.conns {
		if c.desc.maxStreams == 0 || c.busy < c.desc.maxStreams {
			return false
		}
	}
	return len(a.conns) > 0
}

// forget drops an agent of which nothing is left. The shard's mutex is held.
func (s *shard) forget(agentID int64, a *agentStreams) {
	if len(a.conns) == 0 && a.waiters.Len() == 0 && s.agents[agentID] == a {
		delete(s.agents, agentID)
	}
}

// park makes a stream available: to the oldest request that waits for such a stream, or to later ones.
func (r *Registry) park(t *stream) {
	s := r.shard(t.agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents[t.agentID].offer(r, t)
}

// offer is park with the shard's mutex held.
func (a *agentStreams) offer(r *Registry, t *stream) {
	if t.conn.leaving {
		close(t.retired)
		return
	}
	for e := a.waiters.Front(); e != nil; {
		w, current := e.Value.(*waiter), e
		e = e.Next()
		switch {
		case t.desc.has(w.wanted...):
			a.waiters.Remove(current)
			w.found <- t.hand(r, a)
			return
		case !a.announces(w.wanted):
			a.waiters.Remove(current)
			close(w.found)
		}
	}
	t.parkedAt = time.Now()
	t.element = t.conn.idle.PushFront(t)
}

// Release gives back a stream that was found and not used: no method of it was called.
func (r *Registry) Release(t *Tunnel) { r.repark(t.stream) }

// repark makes a stream available again that was handed out.
func (r *Registry) repark(t *stream) {
	s := r.shard(t.agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.left {
		return
	}
	t.handed = false
	t.conn.busy--
	if t.unwanted || t.rpc.Context().Err() != nil {
		close(t.retired)
		return
	}
	s.agents[t.agentID].offer(r, t)
}

// enter counts a new stream of an agent's connection.
func (r *Registry) enter(t *stream, raw []byte) error {
	s := r.shard(t.agentID)
	s.mu.Lock()
	first, err := s.enter(t, raw)
	s.mu.Unlock()
	if first {
		r.cfg.Changed(t.agentID)
	}
	return err
}

// enter says whether it is the agent's first stream.
func (s *shard) enter(t *stream, raw []byte) (bool, error) {
	a := s.agents[t.agentID]
	if a == nil {
		a = &agentStreams{}
		s.agents[t.agentID] = a
	}
	c := a.known(t.peer, func(d *descriptor) bool { return string(d.raw) == string(raw) })
	if c != nil {
		t.desc = c.desc
	} else {
		desc, err := parseDescriptor(raw)
		if err != nil {
			s.forget(t.agentID, a)
			return false, err
		}
		t.desc = desc
		c = a.known(t.peer, func(d *descriptor) bool { return d.pod == desc.pod })
	}
	if c == nil {
		c = &connStreams{peer: t.peer}
		a.conns = append(a.conns, c)
	}
	c.desc = t.desc
	t.conn, t.peer = c, c.peer
	c.refs++
	a.streams++
	delete(s.gone, t.agentID)
	return a.streams == 1, nil
}

// known finds streams of a connection by their newest descriptor. The shard's mutex is held.
func (a *agentStreams) known(peer string, same func(*descriptor) bool) *connStreams {
	for _, c := range a.conns {
		if c.peer == peer && same(c.desc) {
			return c
		}
	}
	return nil
}

// leave forgets a stream that is not parked: its call is over, or withdraw has taken it out.
func (r *Registry) leave(t *stream) {
	s := r.shard(t.agentID)
	s.mu.Lock()
	last := s.leave(t)
	s.mu.Unlock()
	if last {
		r.cfg.Changed(t.agentID)
	}
}

// leave says whether it was the agent's last stream.
func (s *shard) leave(t *stream) bool {
	a := s.agents[t.agentID]
	t.left = true
	if t.handed {
		t.conn.busy--
	}
	t.conn.refs--
	a.streams--
	if t.conn.refs == 0 {
		for i, c := range a.conns {
			if c == t.conn {
				a.conns = append(a.conns[:i], a.conns[i+1:]...)
				break
			}
		}
		a.next = 0
	}
	if a.streams == 0 {
		s.gone[t.agentID] = time.Now()
	}
	s.forget(t.agentID, a)
	return a.streams == 0
}

// withdraw takes a stream out of the idle ones before it ends; false: somebody has just been given it.
func (r *Registry) withdraw(t *stream) bool {
	s := r.shard(t.agentID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.element == nil {
		t.unwanted = true
		return false
	}
	t.conn.idle.Remove(t.element)
	t.element = nil
	return true
}

// retire ends surplus streams that were parked for too long, the oldest first.
func (r *Registry) retire(now time.Time) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for id, since := range s.gone {
			if now.Sub(since) > rememberGone {
				delete(s.gone, id)
			}
		}
		for _, a := range s.agents {
			for _, c := range a.conns {
				for c.idle.Len() > minIdle {
					e := c.idle.Back()
					t := e.Value.(*stream)
					if now.Sub(t.parkedAt) < retireAfter {
						break
					}
					c.idle.Remove(e)
					t.element = nil
					close(t.retired)
				}
			}
		}
		s.mu.Unlock()
	}
}
