package httpgrpc

import (
	"io"

	"google.golang.org/grpc/mem"
)

// gather writes upgraded data in as few writes as it can. Data comes in pieces as HTTP/2 has cut it, often a full frame and the few bytes
// that did not fit into it; over TLS each write of its own is a record and a system call. It holds a buffer only between add and flush.
type gather struct {
	to io.Writer
	// buf has the n bytes that are not written yet; nil: there are none.
	buf *[]byte
	n   int
}

// add frees payload. What does not fill a buffer is written by flush.
func (g *gather) add(payload mem.BufferSlice) error {
	defer payload.Free()
	for _, b := range payload {
		data := b.ReadOnlyData()
		for len(data) > 0 {
			if g.buf == nil {
				g.buf, g.n = mem.DefaultBufferPool().Get(maxChunk), 0
			}
			n := copy((*g.buf)[g.n:], data)
			g.n += n
			data = data[n:]
			if g.n < len(*g.buf) {
				continue
			}
			if err := g.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what was added.
func (g *gather) flush() error {
	if g.buf == nil {
		return nil
	}
	_, err := g.to.Write((*g.buf)[:g.n])
	mem.DefaultBufferPool().Put(g.buf)
	g.buf = nil
	return err
}

// last is add and flush, without a copy of what came in one piece.
func (g *gather) last(payload mem.BufferSlice) error {
	if g.buf != nil || len(payload) != 1 {
		if err := g.add(payload); err != nil {
			return err
		}
		return g.flush()
	}
	defer payload.Free()
	_, err := g.to.Write(payload[0].ReadOnlyData())
	return err
}
