package tunnel

import "time"

const (
	// growStep is how many streams are opened when fewer than minIdle are left and no request waits.
	growStep = 10
	// noHint: kas does not say how many requests wait.
	noHint = -1
	// near is the round trip up to which kas counts as near: to open a stream takes less time than to serve what waits before it. Of a
	// burst only as many requests as nearAhead then get a stream at once, and the others those that become free. To open one for
	// each would cost both sides twice the work, for streams whose requests would wait in the agent instead of in kas.
	near      = 10 * time.Millisecond
	nearAhead = 64
)

// used marks the slot of a stream as active and opens enough others: as many as kas says are waiting, or, where kas says nothing of that, a
// step that doubles with the load.
func (p *Pool) used(l lives, held *heldStream, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaves(held)
	p.leftIdle()
	p.active++
	fresh := p.fresh()
	switch {
	case waiting > 0:
		p.open(l, p.ahead(waiting)+minIdle-fresh)
	case fresh < minIdle && waiting == noHint:
		p.open(l, max(growStep, p.active))
	case fresh < minIdle:
		p.open(l, growStep)
	}
}

// ahead is for how many of the waiting requests streams are opened now. mu is held.
func (p *Pool) ahead(waiting int) int {
	trips := [2]time.Duration{p.trip}
	if p.cfg.RoundTrip != nil {
		trips[1] = p.cfg.RoundTrip()
	}
	for _, trip := range trips {
		if trip > 0 && trip <= near {
			return min(waiting, nearAhead)
		}
	}
	return waiting
}

// answered notes that kas has answered something on a stream of the connection from that address after so long. Each such time is a
// round trip or more.
func (p *Pool) answered(address string, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if (address == p.newest || p.newest == "") && (p.trip == 0 || after < p.trip) {
		p.trip = max(after, 1)
	}
}

// moved notes that there is a new connection to kas. mu is held.
func (p *Pool) moved(address string) {
	if address != p.newest {
		p.newest, p.trip = address, 0
	}
}

// fresh is how many idle slots there are, without those whose stream is parked on an older connection, which may be on its way out, and
// without those whose stream has served: as long as its caller reads the answer, which may be hours, kas cannot give it to another. mu is
// held.
func (p *Pool) fresh() int {
	n := p.idle - p.again
	for address, streams := range p.parked {
		if p.newest != "" && address != p.newest {
			n -= streams
		}
	}
	return n
}
