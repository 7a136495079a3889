package badlink

import "errors"

// Place is where in what it carries a connection is cut.
type Place uint8

// The places. For all but AnyByte the link must Parse.
const (
	// AnyByte is behind any byte, of whatever protocol.
	AnyByte Place = iota + 1
	// WebSocketHeader is amid the header of a WebSocket frame.
	WebSocketHeader
	// Headers is amid an HTTP/2 HEADERS frame, over WebSocket or not.
	Headers
	// Message is amid a length-prefixed gRPC message.
	Message
)

// cut waits for its place.
type cut struct {
	place Place
	skip  int
	done  chan struct{}
}

// Cut makes the link end a connection the next time that bytes in a direction come to such a place, after skipping some: the receiver gets
// everything up to there and the end of the connection, the sender a reset. What comes back is closed when that has happened. There is one
// cut per direction at a time; another one takes its place. Connections that exist already count where the link has parsed all of them.
func (l *Link) Cut(d Direction, place Place, skip int) (<-chan struct{}, error) {
	if place != AnyByte && !l.cfg.Parse {
		return nil, errors.New("badlink: this link does not Parse")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &cut{place: place, skip: skip, done: make(chan struct{})}
	l.cuts[d] = c
	return c.done, nil
}

// cutIn says how much of the next bytes of a pipe may pass, and if that is because of a cut, what to close when it is made.
func (l *Link) cutIn(p *pipe, data []byte) (int, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cuts[p.way]
	if c == nil && !l.cfg.Parse {
		return len(data), nil
	}
	for i, b := range data {
		var at Place
		if l.cfg.Parse {
			at = p.tracker.next(b)
		}
		if c == nil || c.place != AnyByte && c.place != at {
			continue
		}
		if c.skip > 0 {
			c.skip--
			continue
		}
		l.cuts[p.way] = nil
		return i + 1, c.done
	}
	return len(data), nil
}
