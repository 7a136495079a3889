package stock

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // the handshake of RFC 6455
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10

	handshakeKey = "yqOZu+1TNAm19Biw/Ce9mw=="
)

func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// webSocket is one end of a WebSocket that carries a byte stream; every Write is one message, or one for every piece.
type webSocket struct {
	net.Conn
	reader *bufio.Reader
	client bool
	piece  int
	rest   int64
	mask   [4]byte
	at     int
	closed chan uint16 // the code of the peer's close frame
	pongs  chan string

	mu sync.Mutex // guards writing
}

func newWebSocket(conn net.Conn, reader *bufio.Reader, client bool) *webSocket {
	return &webSocket{Conn: conn, reader: reader, client: client, closed: make(chan uint16, 1), pongs: make(chan string, 1)}
}

func (w *webSocket) Write(p []byte) (int, error) {
	if w.piece == 0 {
		return len(p), w.frame(opBinary, p)
	}
	for piece := range slices.Chunk(p, w.piece) {
		if err := w.frame(opBinary, piece); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// frame writes one whole frame, masked if this is the client.
func (w *webSocket) frame(op byte, payload []byte) error {
	b := []byte{0x80 | op, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	body := slices.Clone(payload)
	if w.client {
		mask := [4]byte{0x12, 0x34, 0x56, 0x78}
		b[1] |= 0x80
		b = append(b, mask[:]...)
		for i := range body {
			body[i] ^= mask[i%4]
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.Conn.Write(append(b, body...))
	return err
}

func (w *webSocket) Read(p []byte) (int, error) {
	for w.rest == 0 {
		op, err := w.header()
		if err != nil {
			return 0, err
		}
		if op == opBinary {
			continue
		}
		control := make([]byte, w.rest)
		if _, err := io.ReadFull(w.reader, control); err != nil {
			return 0, err
		}
		w.unmask(control)
		w.rest = 0
		switch op {
		case opPing:
			if err := w.frame(opPong, control); err != nil {
				return 0, err
			}
		case opPong:
			w.pongs <- string(control)
		case opClose:
			if len(control) >= 2 {
				w.closed <- binary.BigEndian.Uint16(control)
			}
			close(w.closed)
			return 0, io.EOF
		}
	}
	n, err := w.reader.Read(p[:min(int64(len(p)), w.rest)])
	w.unmask(p[:n])
	w.rest -= int64(n)
	return n, err
}

// header reads the header of one frame.
func (w *webSocket) header() (op byte, err error) {
	var b [8]byte
	if _, err := io.ReadFull(w.reader, b[:2]); err != nil {
		return 0, err
	}
	op, masked, n := b[0]&15, b[1]&0x80 != 0, b[1]&0x7f
	if b[0]&0x70 != 0 || masked == w.client {
		return 0, &net.OpError{Op: "read", Err: net.UnknownNetworkError("bad WebSocket frame")}
	}
	w.rest, w.at, w.mask = int64(n), 0, [4]byte{}
	if size := map[byte]int{126: 2, 127: 8}[n]; size > 0 {
		if _, err := io.ReadFull(w.reader, b[8-size:]); err != nil {
			return 0, err
		}
		clear(b[:8-size])
		w.rest = int64(binary.BigEndian.Uint64(b[:]))
	}
	if masked {
		_, err = io.ReadFull(w.reader, w.mask[:])
	}
	return op, err
}

func (w *webSocket) unmask(p []byte) {
	for i := range p {
		p[i] ^= w.mask[w.at%4]
		w.at++
	}
}

// end sends a close frame with a code and nothing else.
func (w *webSocket) end(code uint16) error {
	return w.frame(opClose, binary.BigEndian.AppendUint16(nil, code))
}

// readHead reads the lines up to an empty one.
func readHead(t *testing.T, r *bufio.Reader) []string {
	t.Helper()
	var lines []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Errorf("handshake: %v after %q", err, lines)
			return lines
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			return lines
		}
		lines = append(lines, line)
	}
}

// headValue is a header of what readHead returned.
func headValue(lines []string, name string) (string, bool) {
	for _, line := range lines {
		if n, v, ok := strings.Cut(line, ": "); ok && strings.EqualFold(n, name) {
			return v, true
		}
	}
	return "", false
}
