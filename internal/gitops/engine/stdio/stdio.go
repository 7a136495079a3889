// Package stdio frames the messages between agentk and its GitOps engine: four bytes with the length, big endian, then the message.
// Both processes use it, so it links nothing but protobuf.
package stdio

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/protobuf/proto"
)

// MaxMessage bounds one message, so that a damaged length cannot take all memory. Files come in pieces well below it.
const MaxMessage = 8 << 20

// ErrTooLarge is returned for a message above MaxMessage, in either direction.
var ErrTooLarge = errors.New("message is larger than the protocol allows")

// Reader reads messages of one pipe. It is not safe for concurrent use.
type Reader struct {
	r   *bufio.Reader
	buf []byte
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// Read fills m with the next message. io.EOF means that the other side closed the pipe between two messages.
func (r *Reader) Read(m proto.Message) error {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxMessage {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	if uint32(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	data := r.buf[:n]
	if _, err := io.ReadFull(r.r, data); err != nil {
		return fmt.Errorf("message cut short: %w", io.ErrUnexpectedEOF)
	}
	proto.Reset(m)
	return proto.Unmarshal(data, m)
}

// Writer writes messages to one pipe. It is safe for concurrent use.
type Writer struct {
	mu sync.Mutex // guards w and buf
	w  io.Writer

	buf []byte
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends m in one write.
func (w *Writer) Write(m proto.Message) error {
	size := proto.Size(m)
	if size > MaxMessage {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	buf := binary.BigEndian.AppendUint32(w.buf[:0], uint32(size))
	buf, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(buf, m)
	if err != nil {
		return err
	}
	w.buf = buf
	_, err = w.w.Write(buf)
	return err
}
