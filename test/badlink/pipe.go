package badlink

import (
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
	data []byte
	due  time.Time // when it arrives
	end  end
}

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
	for {
		buffer := make([]byte, chunk)
		n, err := from.Read(buffer)
		if n > 0 {
			p.conn.last.Store(time.Now().UnixNano())
		}
		if p.conn.silentIn(p.way) {
			p.lost.Store(true)
		} else if n > 0 {
			p.push(parcel{data: buffer[:n]})
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

// pop waits for a parcel and until it is due; false: the connection is over.
func (p *pipe) pop() (parcel, bool) {
	p.mu.Lock()
	for len(p.queue) == 0 && !p.over() {
		p.moved.Wait()
	}
	if p.over() {
		p.mu.Unlock()
		return parcel{}, false
	}
	item := p.queue[0]
	p.queue = p.queue[1:]
	p.mu.Unlock()
	alive := p.sleep(item.due)
	// Only now there is room again: what is under way counts.
	p.mu.Lock()
	p.bytes -= len(item.data)
	p.moved.Broadcast()
	p.mu.Unlock()
	return item, alive
}

// write gives the other end what is due.
func (p *pipe) write(to *net.TCPConn) {
	for {
		item, ok := p.pop()
		if !ok {
			return
		}
		switch item.end {
		case open:
			if !p.deliver(to, item.data) {
				return
			}
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
		if err != nil {
			p.conn.broke(p.way, err)
			if !p.conn.silentIn(p.way.opposite()) {
				p.conn.reset()
				return false
			}
			p.lost.Store(true)
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
