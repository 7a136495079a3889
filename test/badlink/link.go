package badlink

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// dialLimit bounds a dial to the server.
const dialLimit = 10 * time.Second

// Config says what a link connects.
type Config struct {
	// Dial connects to the server; it is asked for every connection that is accepted. An error resets the client's connection. See To.
	Dial func(ctx context.Context) (net.Conn, error)
	// Host is the IP address to listen on, by default 127.0.0.1; Port is by default any free one.
	Host string
	Port int
	// Parse makes places in the protocols known, for Cut. It costs some nanoseconds for every byte.
	Parse bool
	// Broken is told of connections that an end broke off, or that reached no server, unless it is nil. It must not wait.
	Broken func(Break)
}

// To is a Dial that leads to a fixed address.
func To(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

// Link is a listening proxy.
type Link struct {
	cfg     Config
	port    *reservation
	work    sync.WaitGroup
	buffers sync.Pool // of *[chunk]byte

	// mu guards all below.
	mu         sync.Mutex
	conditions Conditions
	changed    chan struct{} // closed when conditions change
	listener   net.Listener  // nil while Refuse
	conns      map[*conn]struct{}
	accepted   int
	past       [2]int64 // bytes of connections that are gone
	cuts       [2]*cut
	free       [2]time.Time // when the wire has sent everything
	closed     bool
}

// Listen starts a link without faults.
func Listen(cfg Config) (*Link, error) {
	if cfg.Dial == nil {
		return nil, errors.New("badlink: Dial is required")
	}
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	port, err := reserve(cfg.Host, cfg.Port)
	if err != nil {
		return nil, err
	}
	l := &Link{cfg: cfg, port: port, changed: make(chan struct{}), conns: map[*conn]struct{}{}}
	if err := l.Set(Conditions{}); err != nil {
		port.release()
		return nil, err
	}
	return l, nil
}

// Addr is host:port of the link, the same for all its life.
func (l *Link) Addr() string { return l.port.addr }

// Set changes what the link is like, for the connections that exist too. It fails only when the link cannot listen again.
func (l *Link) Set(c Conditions) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	switch {
	case c.Refuse && l.listener != nil:
		_ = l.listener.Close()
		l.listener = nil
	case !c.Refuse && l.listener == nil:
		listener, err := l.port.listen()
		if err != nil {
			return err
		}
		l.listener = listener
		l.work.Go(func() { l.accept(listener) })
	}
	l.conditions = c
	l.free = [2]time.Time{}
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// Heal makes the link perfect. Connections that lost bytes stay as they are.
func (l *Link) Heal() error { return l.Set(Conditions{}) }

// Reset resets all connections, both ends.
func (l *Link) Reset() {
	for _, c := range l.open() {
		c.reset()
	}
}

// Counters tell about one connection.
type Counters struct {
	// ToServer and ToClient are the bytes that arrived at the other end.
	ToServer, ToClient int64
	// Silent: bytes were lost, or the link forgot it.
	Silent bool
}

// Open tells about the connections that are open now.
func (l *Link) Open() []Counters {
	var all []Counters
	for _, c := range l.open() {
		all = append(all, c.counters())
	}
	return all
}

// Accepted is how many connections there have been.
func (l *Link) Accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted
}

// Bytes is how many bytes arrived at the other end, over all connections.
func (l *Link) Bytes(d Direction) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := l.past[d]
	for c := range l.conns {
		sum += c.pipes[d].arrived.Load()
	}
	return sum
}

// Close resets all connections and waits until nothing of the link runs any more. It may be called more than once.
func (l *Link) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		if l.listener != nil {
			_ = l.listener.Close()
		}
		l.port.release()
	}
	l.mu.Unlock()
	l.Reset()
	l.work.Wait()
}

func (l *Link) open() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*conn
	for c := range l.conns {
		all = append(all, c)
	}
	return all
}

func (l *Link) now() (Conditions, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conditions, l.changed
}

// buffer is one of the link's, or a new one.
func (l *Link) buffer() *[chunk]byte {
	if b, ok := l.buffers.Get().(*[chunk]byte); ok {
		return b
	}
	return new([chunk]byte)
}

// plain says whether bytes that go this way just pass: nobody looks at them or slows them down.
func (l *Link) plain(d Direction) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cfg.Parse && l.cuts[d] == nil && l.conditions.BytesPerSecond == 0
}

func (l *Link) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return // the listener was closed; a process without descriptors left has worse to tell
		}
		c := newConn(l, client.(*net.TCPConn))
		l.mu.Lock()
		closed := l.closed
		if !closed {
			l.conns[c] = struct{}{}
			l.accepted++
			l.work.Go(c.run)
		}
		l.mu.Unlock()
		if closed {
			c.reset()
		}
	}
}

func (l *Link) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	for d := range l.past {
		l.past[d] += c.pipes[d].arrived.Load()
	}
}

// send books the wire for n bytes and returns when they have left it.
func (l *Link) send(d Direction, n, bytesPerSecond int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	start := l.free[d]
	if now := time.Now(); start.Before(now) {
		start = now
	}
	l.free[d] = start.Add(time.Duration(float64(n) / float64(bytesPerSecond) * float64(time.Second)))
	return l.free[d]
}
