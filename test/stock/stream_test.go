package stock

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// cancel is the code of a stream that its client does not need any more.
const cancel = http2.ErrCodeCancel

// event is what a peer did to a stream: headers, a message, a reset, the loss of the connection. end: it has half-closed.
type event struct {
	fields     []hpack.HeaderField
	message    []byte
	isMessage  bool
	compressed bool
	end        bool
	reset      *http2.ErrCode
	lost       error
}

// stream is one RPC.
type stream struct {
	peer   *peer
	id     uint32
	events chan event
	buffer []byte // read, not yet a whole message
	owed   int    // read, window not yet given back
}

func newStream(p *peer, id uint32) *stream {
	return &stream{peer: p, id: id, events: make(chan event, 4096)}
}

func (s *stream) put(e event) { s.events <- e }

// data splits what came into messages.
func (s *stream) data(b []byte, end bool) {
	s.buffer = append(s.buffer, b...)
	for len(s.buffer) >= 5 {
		n := 5 + int(binary.BigEndian.Uint32(s.buffer[1:5]))
		if len(s.buffer) < n {
			break
		}
		s.put(event{isMessage: true, compressed: s.buffer[0] == 1, message: bytes.Clone(s.buffer[5:n])})
		s.buffer = s.buffer[n:]
	}
	if end {
		s.put(event{end: true})
	}
}

// next waits for an event.
func (s *stream) next(t *testing.T) event {
	t.Helper()
	select {
	case e := <-s.events:
		return e
	case <-time.After(patience):
		t.Fatalf("nothing comes on stream %d", s.id)
		return event{}
	}
}

// answer waits for headers.
func (s *stream) answer(t *testing.T) []hpack.HeaderField {
	t.Helper()
	e := s.next(t)
	if e.fields == nil {
		t.Fatalf("stream %d: got %+v, want headers", s.id, e)
	}
	return e.fields
}

// message waits for a message, which ours never compress.
func (s *stream) message(t *testing.T) []byte {
	t.Helper()
	e := s.next(t)
	if !e.isMessage || e.compressed {
		t.Fatalf("stream %d: got %+v, want a message that is not compressed", s.id, e)
	}
	return e.message
}

// ending waits for the end of this direction.
func (s *stream) ending(t *testing.T) {
	t.Helper()
	if e := s.next(t); !e.end {
		t.Fatalf("stream %d: got %+v, want the end", s.id, e)
	}
}

// cancelled waits for a reset with the code for that.
func (s *stream) cancelled(t *testing.T) {
	t.Helper()
	if e := s.next(t); e.reset == nil || *e.reset != cancel {
		t.Fatalf("stream %d: got %+v, want RST_STREAM CANCEL", s.id, e)
	}
}

// silent fails if anything has come.
func (s *stream) silent(t *testing.T) {
	t.Helper()
	select {
	case e := <-s.events:
		t.Fatalf("stream %d: got %+v, want nothing", s.id, e)
	default:
	}
}

func (s *stream) headers(fields []hpack.HeaderField, end bool) {
	p := s.peer
	p.write(func() error {
		p.block.Reset()
		for _, f := range fields {
			if err := p.encoder.WriteField(f); err != nil {
				return err
			}
		}
		return p.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: s.id, BlockFragment: p.block.Bytes(), EndHeaders: true, EndStream: end,
		})
	})
}

// compress makes a gRPC message of it, as stock peers do with every one, the empty ones as well.
func compress(message []byte) []byte {
	var b bytes.Buffer
	b.Write([]byte{1, 0, 0, 0, 0})
	w := gzip.NewWriter(&b)
	_, _ = w.Write(message)
	_ = w.Close()
	binary.BigEndian.PutUint32(b.Bytes()[1:], uint32(b.Len()-5))
	return b.Bytes()
}

// send sends messages, each in its own frames.
func (s *stream) send(messages ...[]byte) {
	for _, m := range messages {
		s.raw(compress(m), false)
	}
}

// last sends a message and half-closes with it.
func (s *stream) last(message []byte) { s.raw(compress(message), true) }

// halfClose is an empty DATA frame.
func (s *stream) halfClose() { s.raw(nil, true) }

func (s *stream) raw(b []byte, end bool) {
	s.peer.write(func() error {
		for len(b) > 16384 {
			if err := s.peer.framer.WriteData(s.id, false, b[:16384]); err != nil {
				return err
			}
			b = b[16384:]
		}
		return s.peer.framer.WriteData(s.id, end, b)
	})
}

func (s *stream) reset(code http2.ErrCode) {
	s.peer.write(func() error { return s.peer.framer.WriteRSTStream(s.id, code) })
}

// TestCompress_Sizes: small messages have the sizes that were seen on the wire.
func TestCompress_Sizes(t *testing.T) {
	for size, want := range map[int]int{0: 23, 2: 26, 6: 30} {
		b := compress([]byte{0x1a, 4, 0x0a, 2, 0x7b, 0x7d}[:size])
		if len(b)-5 != want {
			t.Errorf("%d bytes become %d, want %d", size, len(b)-5, want)
		}
		r, err := gzip.NewReader(bytes.NewReader(b[5:]))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(r); err != nil || len(plain) != size {
			t.Errorf("%d bytes come back as %d, %v", size, len(plain), err)
		}
	}
}
