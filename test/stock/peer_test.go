package stock

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// probe is the PING with which stock peers measure a connection after data.
var probe = [8]byte{2, 4, 16, 16, 9, 14, 7, 7}

// quarter is how much of a stream's window may be used before it is refilled.
const quarter = 16 << 10

// peer is one end of an HTTP/2 connection.
type peer struct {
	conn   net.Conn
	client bool
	// opened gets the streams that the other side opens.
	opened chan *stream
	pings  chan [8]byte // acknowledged
	goAway chan struct{}
	ended  chan struct{} // closed when nothing more can be read

	mu       sync.Mutex // guards all below
	out      *bufio.Writer
	framer   *http2.Framer
	encoder  *hpack.Encoder
	block    bytes.Buffer
	corked   bool
	starved  bool // no window is given
	probing  bool // a probe is not acknowledged yet
	streams  map[uint32]*stream
	lastID   uint32
	settings []http2.Setting
}

// newPeer starts to speak on a connection, and reads it until the end of the test.
func newPeer(t *testing.T, conn net.Conn, client bool) *peer {
	t.Helper()
	p := &peer{
		conn: conn, client: client, opened: make(chan *stream, 4096), pings: make(chan [8]byte, 1024),
		goAway: make(chan struct{}), ended: make(chan struct{}), out: bufio.NewWriterSize(conn, 64<<10), streams: map[uint32]*stream{},
	}
	p.streams[0] = newStream(p, 0) // the connection
	p.encoder = hpack.NewEncoder(&p.block)
	p.framer = http2.NewFramer(p.out, conn)
	p.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	// Whoever reads also acknowledges, which may not come before this.
	if client {
		p.write(func() error { _, err := io.WriteString(p.out, http2.ClientPreface); return err })
		p.write(func() error { return p.framer.WriteSettings() })
	} else {
		p.write(func() error { return p.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384}) })
	}
	go p.read()
	t.Cleanup(func() {
		_ = conn.Close()
		<-p.ended
	})
	return p
}

// write does something to the connection in one flush. Errors show in what can be read.
func (p *peer) write(do func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if do() == nil && !p.corked {
		_ = p.out.Flush()
	}
}

// together puts all that f sends into one write of the connection.
func (p *peer) together(f func()) {
	p.mu.Lock()
	p.corked = true
	p.mu.Unlock()
	f()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.corked = false
	_ = p.out.Flush()
}

func (p *peer) read() {
	err := p.frames()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		s.put(event{lost: err})
	}
	close(p.ended)
}

// frames reads until the connection has ended, and says with what.
func (p *peer) frames() error {
	if !p.client {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.conn, preface); err != nil {
			return err
		}
		if string(preface) != http2.ClientPreface {
			return fmt.Errorf("preface %q", preface)
		}
	}
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			return err
		}
		p.handle(f)
	}
}

func (p *peer) handle(f http2.Frame) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			p.write(func() error {
				_ = f.ForeachSetting(func(s http2.Setting) error { p.settings = append(p.settings, s); return nil })
				return p.framer.WriteSettingsAck()
			})
		}
	case *http2.PingFrame:
		switch {
		case f.IsAck() && f.Data == probe:
			p.write(func() error { p.probing = false; return nil })
		case f.IsAck():
			p.pings <- f.Data
		default:
			p.write(func() error { return p.framer.WritePing(true, f.Data) })
		}
	case *http2.GoAwayFrame:
		select {
		case <-p.goAway:
		default:
			close(p.goAway)
		}
	case *http2.MetaHeadersFrame:
		p.stream(f.StreamID).put(event{fields: f.Fields, end: f.StreamEnded()})
	case *http2.RSTStreamFrame:
		p.stream(f.StreamID).put(event{reset: &f.ErrCode})
	case *http2.DataFrame:
		s := p.stream(f.StreamID)
		p.credit(s, len(f.Data()))
		s.data(f.Data(), f.StreamEnded())
	}
}

// credit gives the window back as stock peers do: that of the connection at once with a probe, that of a stream by quarters.
func (p *peer) credit(s *stream, n int) {
	p.write(func() error {
		s.owed += n
		p.streams[0].owed += n
		if p.starved || n == 0 {
			return nil
		}
		return p.refill(s)
	})
}

// refill gives window. mu is held.
func (p *peer) refill(streams ...*stream) error {
	for _, s := range streams {
		if s.owed >= quarter {
			if err := p.framer.WriteWindowUpdate(s.id, uint32(s.owed)); err != nil {
				return err
			}
			s.owed = 0
		}
	}
	whole := p.streams[0]
	if whole.owed == 0 {
		return nil
	}
	if err := p.framer.WriteWindowUpdate(0, uint32(whole.owed)); err != nil {
		return err
	}
	whole.owed = 0
	if p.probing {
		return nil
	}
	p.probing = true
	return p.framer.WritePing(false, probe)
}

// starve stops giving window, feed starts again.
func (p *peer) starve() {
	p.write(func() error { p.starved = true; return nil })
}

func (p *peer) feed(s *stream) {
	p.write(func() error { p.starved = false; return p.refill(s) })
}

// stream finds a stream, or notes one that the other side opens.
func (p *peer) stream(id uint32) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.streams[id]
	if s == nil {
		s = newStream(p, id)
		p.streams[id] = s
		if !p.client {
			p.opened <- s
		}
	}
	return s
}

// open starts a stream with a header list; odd numbers in order, as clients have them.
func (p *peer) open(fields []hpack.HeaderField) *stream {
	p.mu.Lock()
	id := p.lastID + 1
	p.lastID += 2
	p.mu.Unlock()
	s := p.stream(id)
	s.headers(fields, false)
	return s
}

// settle returns when the other side has read all that was sent, and all that it sent before that has been read.
func (p *peer) settle(t *testing.T) {
	t.Helper()
	mark := [8]byte{'s', 'e', 't', 't', 'l', 'e'}
	p.write(func() error { return p.framer.WritePing(false, mark) })
	deadline := time.After(patience)
	for {
		select {
		case got := <-p.pings:
			if got == mark {
				return
			}
		case <-p.ended:
			t.Fatal("the connection has ended")
		case <-deadline:
			t.Fatal("no answer to a ping")
		}
	}
}
