package peer

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	// maxIdle is how many series to one replica are kept while no request uses them.
	maxIdle = 64
	// seriesLife is how long a series is used: not as long as its token is valid for certain, which may have been made tokenReuse before and
	// expires at a whole second. The rest is for clocks that differ.
	seriesLife = tokenLife - tokenReuse - 1500*time.Millisecond
)

// series is a stream to another replica that serves one request after the other.
type series struct {
	pool   *Pool
	conn   *conn
	stream grpc.ClientStream
	cancel context.CancelFunc
	// retire ends the series at the end of its life.
	retire *time.Timer
	// retired is guarded by mu of the Pool: it is not to be used any more.
	retired bool
}

// newSeries opens a series for a request, and ties it to the request's context until disown is called. It may outlive the request.
func (p *Pool) newSeries(ctx context.Context, c *conn) (s *series, disown func() bool, err error) {
	own, cancel := context.WithCancel(context.Background())
	disown = context.AfterFunc(ctx, cancel)
	stream, err := c.client.NewStream(own, bidirectional, seriesPath)
	if err != nil {
		disown()
		cancel()
		return nil, nil, err
	}
	s = &series{pool: p, conn: c, stream: stream, cancel: cancel}
	s.retire = time.AfterFunc(seriesLife, s.expire)
	return s, disown, nil
}

// idleSeries takes a series that waits for a request; nil: there is none. The one that has waited least comes first, so that those
// beyond the need are left alone until they expire.
func (p *Pool) idleSeries(c *conn) *series {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(c.idle) - 1
	if last < 0 {
		return nil
	}
	s := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	return s
}

// keep lets a series wait for another request.
func (p *Pool) keep(s *series) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || s.retired || len(s.conn.idle) >= maxIdle {
		p.end(s)
		return
	}
	s.conn.idle = append(s.conn.idle, s)
}

// expire ends a series that is idle; another one is not kept after its request.
func (s *series) expire() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	s.retired = true
	if i := slices.Index(s.conn.idle, s); i >= 0 {
		s.conn.idle = slices.Delete(s.conn.idle, i, i+1)
		s.pool.end(s)
	}
}

// end ends an idle series in order. mu is held.
func (p *Pool) end(s *series) {
	s.retire.Stop()
	if p.closed || s.stream.CloseSend() != nil {
		s.cancel()
		return
	}
	p.draining.Go(func() {
		timer := time.AfterFunc(drainTimeout, s.cancel)
		defer timer.Stop()
		defer s.cancel()
		for {
			raw := frame.Raw{}
			if s.stream.RecvMsg(&raw) != nil {
				return
			}
			raw.Data.Free()
		}
	})
}

// cut ends a series at once, and what is served in it.
func (s *series) cut() {
	s.retire.Stop()
	s.cancel()
}

// settle reads what is left of an exchange that has ended in order, and keeps the series then.
func (s *series) settle() {
	timer := time.AfterFunc(drainTimeout, s.cancel)
	for {
		raw := frame.Raw{}
		if s.stream.RecvMsg(&raw) != nil {
			timer.Stop()
			s.cut()
			return
		}
		member, err := frame.Member(raw.Data, memberNoTunnel)
		raw.Data.Free()
		if err == nil && member == frame.ConnectTrailer {
			break
		}
	}
	if !timer.Stop() {
		s.cut()
		return
	}
	s.pool.keep(s)
}

// drain settles a series beside everything else.
func (p *Pool) drain(s *series) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.cut()
		return
	}
	p.draining.Go(s.settle)
}
