package tunnel

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

const (
	// leaveLimit bounds the leave-taking, leaveTries how often in a row it may bring nothing, leavePause what each time may take.
	leaveLimit = 3 * time.Second
	leaveTries = 5
	leavePause = 100 * time.Millisecond
	// lastWords is how long calls that were ended may take to say so.
	lastWords = time.Second
)

// lives are how long the parts of a slot last.
type lives struct {
	// open: until then streams are opened. parked: until then a stream may be without a call.
	open, parked context.Context
	// calls: until then calls may run. streams: until then they may tell their end.
	calls, streams context.Context
}

// Run keeps the pool until ctx ends. Then kas is asked to end the parked streams, and calls in flight may go on for DrainTimeout.
// Run returns when the last stream is gone.
func (p *Pool) Run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	parked, endParked := context.WithCancelCause(base)
	defer endParked(nil)
	calls, endCalls := context.WithCancelCause(base)
	defer endCalls(nil)
	streams, endStreams := context.WithCancelCause(base)
	defer endStreams(nil)

	p.follow(lives{open: ctx, parked: parked, calls: calls, streams: streams})

	timer := time.NewTimer(p.cfg.DrainTimeout)
	defer timer.Stop()
	p.leave(base)
	endParked(context.Cause(ctx))
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	p.mu.Lock()
	active := p.active
	p.mu.Unlock()
	p.cfg.Log.Info("Ending requests that are still running at shutdown", zap.Int("count", active))
	endCalls(httpgrpc.ErrStopping)
	select {
	case <-done:
		return nil
	case <-time.After(lastWords):
	}
	endStreams(httpgrpc.ErrStopping)
	<-done
	return nil
}

// follow keeps enough streams parked on the newest connection until l.open ends; after it no slot is opened any more.
func (p *Pool) follow(l lives) {
	p.mu.Lock()
	p.open(l, minIdle)
	p.mu.Unlock()
	for {
		select {
		case newest := <-p.cfg.Connected:
			p.mu.Lock()
			p.moved(newest)
			p.open(l, minIdle-p.fresh())
			p.mu.Unlock()
		case <-l.open.Done():
			p.mu.Lock()
			p.stopped = true
			p.checkUnparked()
			p.mu.Unlock()
			return
		}
	}
}

// leave has kas end the parked streams, as far as kas can do that.
func (p *Pool) leave(ctx context.Context) {
	if p.cfg.Leave == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveLimit)
	defer cancel()
	least := p.idleNow()
	for try := 0; try < leaveTries && least > 0; try++ {
		if err := p.cfg.Leave(ctx); err != nil {
			p.cfg.Log.Debug("Kas was not told that this agent stops", zap.Error(err))
			return
		}
		select {
		case <-p.unparked:
		case <-ctx.Done():
			return
		case <-time.After(leavePause):
		}
		if left := p.idleNow(); left < least {
			least, try = left, -1
		}
	}
}

func (p *Pool) idleNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle
}

// park counts a new stream as parked, unpark any parked one not any more.
func (p *Pool) park(held *heldStream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked[held.address]++
}

func (p *Pool) unpark(held *heldStream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaves(held)
}

// leaves is unpark with mu held.
func (p *Pool) leaves(held *heldStream) {
	if held.served {
		p.again--
		return
	}
	if p.parked[held.address]--; p.parked[held.address] == 0 {
		delete(p.parked, held.address)
	}
}

// repark counts a busy stream as parked again; false: none is parked any more, since the pool has stopped.
func (p *Pool) repark(held *heldStream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	p.active--
	p.idle++
	p.again++
	held.served = true
	held.state.Store(stateParked)
	return true
}

// localAddress is that of the connection a stream is on, empty if that is not known.
func localAddress(stream grpc.ClientStream) string {
	if on, ok := peer.FromContext(stream.Context()); ok && on.LocalAddr != nil {
		return on.LocalAddr.String()
	}
	return ""
}
