package fleet

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gitlab.com/agentk/agentk/test/badlink"
)

const (
	// lookEvery is how often the balancer asks a kas whether it is ready, lookLimit how long it waits for an answer.
	lookEvery = 100 * time.Millisecond
	lookLimit = time.Second
	// chances is how many answers in a row a kas may owe.
	chances = 3
	// maxBreaks bounds what is remembered.
	maxBreaks = 1000
)

// backend is one kas as a balancer sees it.
type backend struct {
	name    string
	address string
	ready   *atomic.Bool
}

// Balancer spreads TCP connections over the kas that are ready, in turn. What is connected stays: as with any balancer of this kind, a kas
// that is going to stop has to send its clients away itself.
type Balancer struct {
	// Link is its listening side.
	*badlink.Link

	// mu guards all below.
	mu       sync.Mutex
	backends []*backend
	only     map[string]bool // nil: all
	next     int
	breaks   []badlink.Break
}

func newBalancer(host string) (*Balancer, error) {
	b := &Balancer{}
	var err error
	b.Link, err = badlink.Listen(badlink.Config{Host: host, Dial: b.dial, Broken: b.broken})
	return b, err
}

// Only makes the balancer use these kas for new connections, by their names; none: all.
func (b *Balancer) Only(names ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.only = nil
	for _, name := range names {
		if b.only == nil {
			b.only = map[string]bool{}
		}
		b.only[name] = true
	}
}

func (b *Balancer) set(backends []*backend) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = backends
}

// candidates are the kas to try, the one whose turn it is first.
func (b *Balancer) candidates() []*backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*backend
	for i := range b.backends {
		one := b.backends[(b.next+i)%len(b.backends)]
		if one.ready.Load() && (b.only == nil || b.only[one.name]) {
			list = append(list, one)
		}
	}
	b.next++
	return list
}

func (b *Balancer) dial(ctx context.Context) (net.Conn, error) {
	err := errors.New("no kas is ready")
	for _, one := range b.candidates() {
		var conn net.Conn
		if conn, err = badlink.To(one.address)(ctx); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (b *Balancer) broken(how badlink.Break) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.breaks) < maxBreaks {
		b.breaks = append(b.breaks, how)
	}
}

// Breaks tells of the connections that were broken off, and of those for which there was nobody.
func (b *Balancer) Breaks() []badlink.Break {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.breaks)
}

// watch follows the readiness of a kas until ctx ends. One that says that it is not ready, or that is not there, is out at once; one that does
// not answer in time is given further chances, since the machine may be busy.
func watch(ctx context.Context, ready *atomic.Bool, ask func(context.Context) error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for silent := 0; ; {
		limited, cancel := context.WithTimeout(ctx, lookLimit)
		err := ask(limited)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			silent++
		} else {
			silent = 0
			ready.Store(err == nil)
		}
		if silent == chances {
			ready.Store(false)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
