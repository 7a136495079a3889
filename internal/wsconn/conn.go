// Package wsconn carries the byte stream of one HTTP/2 connection inside a WebSocket, because many networks let nothing else
// through: Conn is the net.Conn at both ends, Dialer opens it from the agent's side through the proxies on the way, and Mux
// serves it beside plain gRPC on one port of kas. Message boundaries carry no meaning.
package wsconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Subprotocol is the WebSocket subprotocol of the tunnel.
const Subprotocol = "ws-tunnel"

const (
	// maxMessage is the largest message either side accepts; a longer one closes the connection with 1009.
	maxMessage = 10 << 20
	// writeBuffer holds one whole write of the gRPC transport, so that it leaves as one frame.
	writeBuffer = 32 << 10
	// closeWait bounds sending the close frame to a peer that does not read.
	closeWait = time.Second
	// drainWait and drainBytes bound what is still read of a peer that broke the protocol. Closing with unread bytes would
	// reset the connection and take the close frame, which tells the peer what it did wrong, with it.
	drainWait  = 250 * time.Millisecond
	drainBytes = maxMessage + 1<<20
)

// writeBuffers is shared by all connections: a buffer is held only while a write is under way, so idle agents cost none.
var writeBuffers sync.Pool

// Conn is a byte stream in binary WebSocket messages. Read, Write and Close may be called at the same time. Unlike a TCP
// connection it does not survive a deadline that passes in the middle of a frame: after a timeout it can only be closed.
type Conn struct {
	ws   *websocket.Conn
	link *link

	// readMu guards the reading end; Close does not need it.
	readMu  sync.Mutex
	message io.Reader
	readErr error

	// writeMu keeps writers apart.
	writeMu sync.Mutex

	closeOnce sync.Once
	closeErr  error
	closed    atomic.Bool
}

var _ net.Conn = (*Conn)(nil)

func newConn(ws *websocket.Conn, l *link) *Conn {
	ws.SetReadLimit(maxMessage)
	return &Conn{ws: ws, link: l}
}

// Read reads across messages. It says io.EOF when the peer closed in order (1000 or 1001), and net.ErrClosed after Close.
func (c *Conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if c.readErr != nil {
		return 0, c.readErr
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if c.message == nil {
			kind, message, err := c.ws.NextReader()
			if err != nil {
				return 0, c.failRead(err)
			}
			if kind != websocket.BinaryMessage {
				c.refuse(websocket.CloseUnsupportedData, "only binary messages are expected")
				return 0, c.failRead(errors.New("the peer sent a text message"))
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, c.failRead(err)
		}
	}
}

// failRead turns the library's error into what a reader of a net.Conn expects, and makes it stay.
func (c *Conn) failRead(err error) error {
	var closed *websocket.CloseError
	switch {
	case c.closed.Load():
		err = net.ErrClosed
	case errors.Is(err, websocket.ErrReadLimit):
		c.refuse(websocket.CloseMessageTooBig, "")
		err = fmt.Errorf("websocket: a message is longer than %d bytes", maxMessage)
	case errors.As(err, &closed):
		switch closed.Code {
		case websocket.CloseNormalClosure, websocket.CloseGoingAway:
			err = io.EOF
		case websocket.CloseAbnormalClosure:
			err = fmt.Errorf("websocket: the connection ended without a close frame: %w", io.ErrUnexpectedEOF)
		default:
			err = fmt.Errorf("websocket: the peer closed with code %d: %q", closed.Code, closed.Text)
		}
	}
	c.readErr = err
	return err
}

// refuse tells the peer why the connection ends, then reads for a moment so that the close frame can arrive.
func (c *Conn) refuse(code int, reason string) {
	// The library may have sent the same frame already; it then sends no second one.
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(closeWait))
	half, ok := c.link.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.link.SetReadDeadline(time.Now().Add(drainWait)) == nil {
		_, _ = io.CopyN(io.Discard, c.link, drainBytes)
	}
}

// Write sends p as one binary message, or as several if p is longer than a peer accepts.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	written := 0
	for len(p) > 0 {
		part := p[:min(len(p), maxMessage)]
		if err := c.ws.WriteMessage(websocket.BinaryMessage, part); err != nil {
			if c.closed.Load() || errors.Is(err, websocket.ErrCloseSent) {
				err = net.ErrClosed
			}
			return written, err
		}
		written += len(part)
		p = p[len(part):]
	}
	return written, nil
}

// Close tells the peer that the stream has ended (1000) and closes the connection. It waits at most closeWait for a peer
// that does not read.
func (c *Conn) Close() error { return c.closeWith(websocket.CloseNormalClosure, "") }

func (c *Conn) closeWith(code int, reason string) error {
	c.closeOnce.Do(func() {
		c.closed.Store(true)
		// A peer that is gone cannot be told; closing is what matters.
		_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(closeWait))
		c.closeErr = c.link.Close()
	})
	return c.closeErr
}

// LocalAddr is the address of the transport connection.
func (c *Conn) LocalAddr() net.Addr { return c.link.LocalAddr() }

// RemoteAddr is the address of the transport connection's other end, which may be a proxy.
func (c *Conn) RemoteAddr() net.Addr { return c.link.RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads, also the one under way.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.link.SetReadDeadline(t) }

// SetWriteDeadline bounds writes, also the one under way.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.link.setUserWriteDeadline(t) }
