package badlink

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection through a link.
type conn struct {
	link  *Link
	done  chan struct{} // closed by reset
	pipes [2]*pipe
	last  atomic.Int64 // when a byte was last read, in either direction, UnixNano
	// silent: nothing passes any more in either direction, and nobody is told.
	silent atomic.Bool

	// mu guards the fields below.
	mu   sync.Mutex
	ends [2]*net.TCPConn // by the direction that leads there: the server's, the client's
	over bool
}

func newConn(l *Link, client *net.TCPConn) *conn {
	c := &conn{link: l, done: make(chan struct{})}
	c.ends[ToClient] = client
	for d := range c.pipes {
		c.pipes[d] = newPipe(c, Direction(d))
	}
	c.last.Store(time.Now().UnixNano())
	return c
}

// run carries the connection until both ends are gone.
func (c *conn) run() {
	defer c.link.forget(c)
	defer c.close()
	conditions, _ := c.link.now()
	if conditions.DropToServer || conditions.DropToClient {
		c.silent.Store(true)
		c.pipes[ToServer].read(c.end(ToClient)) // until the client gives up
		return
	}
	if !c.dial() {
		c.reset()
		return
	}
	var watcher, carriers sync.WaitGroup
	carried := make(chan struct{})
	watcher.Go(func() { c.watchIdle(carried) })
	for d, p := range c.pipes {
		from, to := c.end(Direction(d).opposite()), c.end(Direction(d))
		carriers.Go(func() { p.read(from) })
		carriers.Go(func() { p.write(to) })
	}
	carriers.Wait()
	close(carried)
	watcher.Wait()
}

// dial connects to the server, unless the connection is reset meanwhile.
func (c *conn) dial() bool {
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	})
	server, err := c.link.cfg.Dial(ctx)
	if err != nil {
		c.broke(ToServer, err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends[ToServer] = server.(*net.TCPConn)
	if c.over {
		kill(c.ends[ToServer])
	}
	return !c.over
}

// watchIdle makes the link forget the connection when nothing was said on it for too long.
func (c *conn) watchIdle(carried <-chan struct{}) {
	for {
		conditions, changed := c.link.now()
		var expired <-chan time.Time
		if limit := conditions.IdleTimeout; limit > 0 {
			left := limit - time.Since(time.Unix(0, c.last.Load()))
			if left <= 0 {
				c.silent.Store(true)
				return
			}
			timer := time.NewTimer(left)
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case <-expired:
		case <-changed:
		case <-carried:
			return
		}
	}
}

func (c *conn) end(d Direction) *net.TCPConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ends[d]
}

// silentIn says whether news do not travel in that direction.
func (c *conn) silentIn(d Direction) bool {
	conditions, _ := c.link.now()
	return c.silent.Load() || c.pipes[d].lost.Load() || conditions.drops(d)
}

func (c *conn) counters() Counters {
	return Counters{
		ToServer: c.pipes[ToServer].arrived.Load(), ToClient: c.pipes[ToClient].arrived.Load(),
		Silent: c.silent.Load() || c.pipes[ToServer].lost.Load() || c.pipes[ToClient].lost.Load(),
	}
}

// close closes both ends in order; reset ends them with RST, and what is under way is lost.
func (c *conn) close() { c.finish(func(end *net.TCPConn) { _ = end.Close() }) }

func (c *conn) reset() { c.finish(kill) }

func (c *conn) finish(shut func(*net.TCPConn)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	close(c.done)
	for _, end := range c.ends {
		if end != nil {
			shut(end)
		}
	}
	for _, p := range c.pipes {
		p.wake()
	}
}

func kill(end *net.TCPConn) {
	_ = end.SetLinger(0)
	_ = end.Close()
}
