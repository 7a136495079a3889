package badlink

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// end is how one side of a connection ended.
type end uint8

const (
	open     end = iota
	finished     // FIN
	broken       // RST
	unheard      // nobody is to be told
)

// parcel is what was read at once, or the end of it all.
type parcel struct {
	data   []byte
	buffer *[chunk]byte // which data is part of and goes back to the link; nil: data is its own
	due    time.Time    // when it arrives
	end    end
}

const (
	// small is up to which size a read is copied, so that its buffer is not held while it is under way.
	small = 2 << 10
	// batch is the most parcels that are written at once.
	batch = 16
)

// pipe is one direction of a connection: what a reader takes waits in a queue until it is due, for a writer.
type pipe struct {
	conn    *conn
	way     Direction
	arrived atomic.Int64
	lost    atomic.Bool // bytes were lost: nothing can follow
	tracker tracker     // used by the writer only

	// mu guards the queue. moved is signalled when it changes and when the connection is over.
	mu    sync.Mutex
	moved *sync.Cond
	queue []parcel
	bytes int
}

func newPipe(c *conn, d Direction) *pipe {
	p := &pipe{conn: c, way: d, tracker: tracker{way: d}}
	p.moved = sync.NewCond(&p.mu)
	return p
}

// read takes what one end sends, until that ends or the connection is over.
func (p *pipe) read(from *net.TCPConn) {
	l := p.conn.link
	buffer := l.buffer()
	defer func() { l.buffers.Put(buffer) }()
	for {
		n, err := from.Read(buffer[:])
		if n > 0 {
			p.conn.last.Store(time.Now().UnixNano())
		}
		switch {
		case p.conn.silentIn(p.way):
			p.lost.Store(true)
		case n > small:
			p.push(parcel{data: buffer[:n], buffer: buffer})
			buffer = l.buffer()
		case n > 0:
			p.push(parcel{data: bytes.Clone(buffer[:n])})
		}
		if err == nil {
			continue
		}
		last := parcel{end: broken}
		if errors.Is(err, io.EOF) {
			last.end = finished
		}
		if last.end == broken {
			p.conn.broke(p.way.opposite(), err)
		}
		if p.lost.Load() {
			last.end = unheard
		}
		p.push(last)
		return
	}
}

// push waits for room and queues a parcel.
func (p *pipe) push(item parcel) {
	conditions, _ := p.conn.link.now()
	item.due = time.Now().Add(conditions.RTT / 2)
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.bytes > 0 && p.bytes+len(item.data) > conditions.queueLimit() && !p.over() {
		p.moved.Wait()
	}
	p.queue = append(p.queue, item)
	p.bytes += len(item.data)
	p.moved.Broadcast()
}

// pop waits for a parcel and until it is due, and takes those with it that are due as well; false: the connection is over. What was taken
// counts as under way until passed.
func (p *pipe) pop(into []parcel) ([]parcel, bool) {
	p.mu.Lock()
	for len(p.queue) == 0 && !p.over() {
		p.moved.Wait()
	}
	if p.over() {
		p.mu.Unlock()
		return nil, false
	}
	first := p.queue[0]
	p.mu.Unlock()
	if !p.sleep(first.due) {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	into = append(into, first)
	for _, item := range p.queue[1:] {
		if len(into) == batch || item.end != open || first.end != open || item.due.After(now) {
			break
		}
		into = append(into, item)
	}
	clear(p.queue[:len(into)])
	p.queue = p.queue[len(into):]
	return into, true
}

// passed makes room for what follows: what was under way has arrived.
func (p *pipe) passed(items []parcel) {
	p.mu.Lock()
	for _, item := range items {
		p.bytes -= len(item.data)
	}
	p.moved.Broadcast()
	p.mu.Unlock()
	for _, item := range items {
		if item.buffer != nil {
			p.conn.link.buffers.Put(item.buffer)
		}
	}
}

// write gives the other end what is due.
func (p *pipe) write(to *net.TCPConn) {
	room := make([]parcel, 0, batch)
	for {
		items, ok := p.pop(room)
		if !ok {
			return
		}
		switch items[0].end {
		case open:
			if !p.deliverAll(to, items) {
				return
			}
			p.passed(items)
		case finished:
			_ = to.CloseWrite()
			return
		case broken:
			p.conn.reset()
			return
		case unheard:
			return
		}
	}
}

// deliverAll writes parcels, in one go where nothing has to be done with their bytes; false: the connection is over.
func (p *pipe) deliverAll(to *net.TCPConn, items []parcel) bool {
	if len(items) == 1 || !p.conn.link.plain(p.way) || p.lost.Load() {
		for _, item := range items {
			if !p.deliver(to, item.data) {
				return false
			}
		}
		return true
	}
	var together net.Buffers
	for _, item := range items {
		together = append(together, item.data)
	}
	n, err := together.WriteTo(to)
	p.arrived.Add(n)
	return p.written(err)
}

// written says whether a write has left the connection as it is: one that failed because the other end is silent has lost bytes.
func (p *pipe) written(err error) bool {
	if err == nil {
		return true
	}
	p.conn.broke(p.way, err)
	if !p.conn.silentIn(p.way.opposite()) {
		p.conn.reset()
		return false
	}
	p.lost.Store(true)
	return true
}

// deliver writes as fast as the link is; false: the connection is over.
func (p *pipe) deliver(to *net.TCPConn, data []byte) bool {
	for len(data) > 0 && !p.lost.Load() {
		conditions, _ := p.conn.link.now()
		piece := data[:min(len(data), conditions.piece())]
		data = data[len(piece):]
		if rate := conditions.BytesPerSecond; rate > 0 && !p.sleep(p.conn.link.send(p.way, len(piece), rate)) {
			return false
		}
		length, hit := p.conn.link.cutIn(p, piece)
		n, err := to.Write(piece[:length])
		p.arrived.Add(int64(n))
		if hit != nil {
			// The receiver has everything up to the place, and then the end. The sender is first, before the end of the receiver reaches it.
			kill(p.conn.end(p.way.opposite()))
			_ = to.CloseWrite()
			p.conn.close()
			close(hit)
			return false
		}
		if !p.written(err) {
			return false
		}
	}
	return true
}

// sleep returns at a time, or false when the connection is over before.
func (p *pipe) sleep(until time.Time) bool {
	left := time.Until(until)
	if left <= 0 {
		return !p.over()
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.conn.done:
		return false
	}
}

func (p *pipe) over() bool {
	select {
	case <-p.conn.done:
		return true
	default:
		return false
	}
}

// wake makes everybody look again.
func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved.Broadcast()
}
