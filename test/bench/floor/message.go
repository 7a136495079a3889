package floor

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

const (
	// head is the length of what follows it, and an id: four bytes each.
	head = 8
	// maxMessage bounds what is read into memory, in bytes.
	maxMessage = 64 << 20
)

var errMessage = errors.New("floor: a message ends too early")

// message is a head and fields, each after its length.
type message []byte

func newMessage(id uint32) message {
	m := make(message, head, 2<<10)
	binary.BigEndian.PutUint32(m[4:], id)
	return m
}

func (m message) id() uint32 { return binary.BigEndian.Uint32(m[4:]) }

func (m message) add(field string) message {
	return append(binary.AppendUvarint(m, uint64(len(field))), field...)
}

// addHeader adds how many there are, and names and values in turn.
func (m message) addHeader(h http.Header) message {
	count := 0
	for _, values := range h {
		count += len(values)
	}
	m = binary.AppendUvarint(m, uint64(count))
	for name, values := range h {
		for _, value := range values {
			m = m.add(name).add(value)
		}
	}
	return m
}

// fields are those of a message that are still to be read. The first that is not there ends them all.
type fields struct {
	rest []byte
	err  error
}

func (m message) fields() *fields { return &fields{rest: m[head:]} }

func (f *fields) number() int {
	n, size := binary.Uvarint(f.rest)
	if size <= 0 || n > maxMessage {
		f.rest, f.err = nil, errMessage
		return 0
	}
	f.rest = f.rest[size:]
	return int(n)
}

func (f *fields) next() string {
	n := f.number()
	if n > len(f.rest) {
		f.rest, f.err = nil, errMessage
		return ""
	}
	field := string(f.rest[:n])
	f.rest = f.rest[n:]
	return field
}

func (f *fields) header(into http.Header) {
	for range f.number() {
		if f.err != nil {
			return
		}
		name := f.next()
		into[name] = append(into[name], f.next())
	}
}

// link carries messages both ways over one connection.
type link struct {
	conn net.Conn
	r    *bufio.Reader
	mu   sync.Mutex // is held by who writes
}

func newLink(conn net.Conn) *link { return &link{conn: conn, r: bufio.NewReaderSize(conn, 32<<10)} }

// send writes a message at once, from whoever has it.
func (l *link) send(m message) error {
	binary.BigEndian.PutUint32(m, uint32(len(m)-head))
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.conn.Write(m)
	return err
}

func (l *link) receive() (message, error) {
	start, err := l.r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(start)
	if size > maxMessage {
		return nil, fmt.Errorf("floor: a message of %d bytes", size)
	}
	m := make(message, head+int(size))
	_, err = io.ReadFull(l.r, m)
	return m, err
}
