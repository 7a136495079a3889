package badlink

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	preface    = 24 // bytes that start an HTTP/2 connection, from the client
	h2Header   = 9
	grpcPrefix = 5

	frameData     = 0
	frameHeaders  = 1
	flagStreamEnd = 1
)

// protocol is what a connection carries.
type protocol uint8

const (
	unknown   protocol = iota
	upgrading          // the HTTP/1.1 header of a WebSocket upgrade
	webSocket
	plainHTTP2
	opaque // something else
)

// tracker follows the protocols of one direction of a connection, byte for byte: HTTP/2 with gRPC in it, as it is or in a WebSocket. It
// trusts what it sees: both ends are ours.
type tracker struct {
	way  Direction
	kind protocol
	head []byte // of the connection, or of the upgrade
	ws   wsTracker
	h2   h2Tracker
}

// next takes one byte and says which place is right behind it; 0: none of interest. A place is amid its thing, once in each.
func (t *tracker) next(b byte) Place {
	switch t.kind {
	case unknown:
		t.head = append(t.head, b)
		if len(t.head) == 4 {
			t.decide()
		}
	case upgrading:
		t.head = append(t.head, b)
		if bytes.HasSuffix(t.head, []byte("\r\n\r\n")) {
			t.kind = webSocket
			if t.way == ToClient && !bytes.Contains(t.head[:min(len(t.head), 16)], []byte(" 101 ")) {
				t.kind = opaque
			}
			t.head = nil
		}
	case webSocket:
		at, payload := t.ws.next(b)
		if payload != nil {
			return t.h2.next(*payload, t.way)
		}
		return at
	case plainHTTP2:
		return t.h2.next(b, t.way)
	case opaque:
	}
	return 0
}

// decide knows the protocol by the first four bytes.
func (t *tracker) decide() {
	switch start := string(t.head); {
	case start == "GET " || start == "HTTP":
		t.kind = upgrading
		return
	case start == "PRI " || t.way == ToClient && start[3] == 4: // a server's first frame is SETTINGS
		t.kind = plainHTTP2
	default:
		t.kind = opaque
	}
	head := t.head
	t.head = nil
	if t.kind == plainHTTP2 {
		for _, b := range head {
			t.h2.next(b, t.way) // four bytes hold no place
		}
	}
}

// wsTracker follows WebSocket frames.
type wsTracker struct {
	header []byte
	need   int    // length of the header as far as it is known
	left   uint64 // of the payload
	mask   []byte // nil: the payload is in clear
	masked int    // bytes of it that were unmasked
	binary bool
}

// next returns a place, or a byte of the payload of a data frame.
func (w *wsTracker) next(b byte) (Place, *byte) {
	if w.left > 0 {
		w.left--
		if w.mask != nil {
			b ^= w.mask[w.masked%4]
			w.masked++
		}
		if w.binary {
			return 0, &b
		}
		return 0, nil
	}
	if w.need == 0 {
		w.need = 2
	}
	w.header = append(w.header, b)
	if len(w.header) == 2 {
		switch b & 0x7f {
		case 126:
			w.need += 2
		case 127:
			w.need += 8
		}
		if b&0x80 != 0 {
			w.need += 4
		}
	}
	if len(w.header) == w.need {
		w.begin()
		return 0, nil
	}
	if len(w.header) == 1 {
		return WebSocketHeader, nil
	}
	return 0, nil
}

// begin reads the complete header.
func (w *wsTracker) begin() {
	w.binary = w.header[0]&0x0f <= 2 // continuation, text, binary
	rest := w.header[2:]
	switch length := w.header[1] & 0x7f; length {
	case 126:
		w.left, rest = uint64(binary.BigEndian.Uint16(rest)), rest[2:]
	case 127:
		w.left, rest = binary.BigEndian.Uint64(rest), rest[8:]
	default:
		w.left = uint64(length)
	}
	w.mask, w.masked = nil, 0
	if len(rest) == 4 {
		w.mask = slices.Clone(rest)
	}
	w.header, w.need = w.header[:0], 0
}

// h2Tracker follows HTTP/2 frames, and gRPC messages in their data.
type h2Tracker struct {
	skipped  int // of the preface
	header   []byte
	kind     byte
	flags    byte
	stream   uint32
	length   int // of the payload
	seen     int // of it
	messages map[uint32]*message
}

// message is how far a gRPC message of a stream is.
type message struct {
	prefix []byte
	length int // with its prefix; 0: not known yet
	seen   int
}

func (h *h2Tracker) next(b byte, way Direction) Place {
	if way == ToServer && h.skipped < preface {
		h.skipped++
		return 0
	}
	if h.seen == h.length {
		h.header = append(h.header, b)
		if len(h.header) == h2Header {
			h.begin()
		}
		return 0
	}
	h.seen++
	switch {
	case h.kind == frameHeaders && h.seen == (h.length+1)/2 && h.seen < h.length:
		return Headers
	case h.kind == frameData:
		return h.data(b)
	}
	return 0
}

// begin reads the header of a frame.
func (h *h2Tracker) begin() {
	h.length = int(h.header[0])<<16 | int(h.header[1])<<8 | int(h.header[2])
	h.kind, h.flags = h.header[3], h.header[4]
	h.stream = binary.BigEndian.Uint32(h.header[5:]) &^ (1 << 31)
	h.header, h.seen = h.header[:0], 0
}

// data follows the messages of a stream. gRPC does not pad.
func (h *h2Tracker) data(b byte) Place {
	if h.messages == nil {
		h.messages = map[uint32]*message{}
	}
	m := h.messages[h.stream]
	if m == nil {
		m = &message{}
		h.messages[h.stream] = m
	}
	m.seen++
	at := Place(0)
	switch {
	case m.length == 0:
		m.prefix = append(m.prefix, b)
		if len(m.prefix) == grpcPrefix {
			m.length = grpcPrefix + int(binary.BigEndian.Uint32(m.prefix[1:]))
		}
	case m.seen == (grpcPrefix+m.length)/2 && m.seen < m.length:
		at = Message
	}
	if m.seen == m.length || h.seen == h.length && h.flags&flagStreamEnd != 0 {
		delete(h.messages, h.stream)
	}
	return at
}
