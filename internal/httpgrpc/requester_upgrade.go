package httpgrpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	// clientWriteTimeout is the deadline of each write to an upgraded client connection.
	clientWriteTimeout = 20 * time.Second
	// closeGrace is how long the peer may take to end the call after the client has closed its side.
	closeGrace = 5 * time.Second
	// linger is how long a client may take to close after the last byte was written to it. Closing at once, with its bytes
	// unread, would reset the connection and could destroy what it has not read yet.
	linger = 500 * time.Millisecond
	// minRead is the buffer that waits for the client of an upgraded connection.
	minRead = 4 << 10
)

// CanUpgrade says whether the connection behind w can be taken over.
func CanUpgrade(w http.ResponseWriter, r *http.Request) bool {
	for r.ProtoMajor == 1 {
		switch t := w.(type) {
		case http.Hijacker:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
	return false
}

// awaitBody says whether the body pump has ended, after a short wait.
func (e *requesterExchange) awaitBody() bool {
	if e.pumped == nil {
		return true
	}
	grace := time.NewTimer(bodyGrace)
	defer grace.Stop()
	select {
	case <-e.pumped:
		return true
	case <-grace.C:
		return false
	}
}

// pipe takes the client connection over, writes the 101 and carries bytes both ways until one side ends, which ends the other.
func (e *requesterExchange) pipe() error {
	if !e.awaitBody() {
		return e.broken("an upgrade before the end of the request body")
	}
	conn, rw, err := e.rc.Hijack()
	if err != nil {
		return &Error{Stage: StageUpgrade, Hop: hopKas, Err: err}
	}
	e.res.Committed = true
	defer func() { _ = conn.Close() }()
	// The end of ctx must also end a write or read that waits.
	stop := context.AfterFunc(e.ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return &Error{Stage: StageUpgrade, Hop: hopClient, Err: err}
	}
	e.x.Respond(http.StatusSwitchingProtocols, e.switching)
	if err := e.writeSwitching(conn); err != nil {
		return &Error{Stage: StageWrite, Hop: hopClient, Err: err}
	}
	if e.in == nil {
		e.listen()
	}
	close(e.resume)
	u := &upgraded{requesterExchange: e, conn: conn, buffered: rw.Reader, now: promptOf(conn), ended: make(chan struct{})}
	return u.run()
}

func (e *requesterExchange) writeSwitching(conn net.Conn) error {
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	if err := e.w.Header().Write(&head); err != nil {
		return err
	}
	head.WriteString("\r\n")
	if err := conn.SetWriteDeadline(time.Now().Add(clientWriteTimeout)); err != nil {
		return err
	}
	_, err := conn.Write(head.Bytes())
	return err
}

// upgraded is a client connection that speaks another protocol now.
type upgraded struct {
	*requesterExchange
	conn net.Conn
	// peerEnded: the end of the client connection means nothing any more.
	peerEnded atomic.Bool
	// buffered holds what the client sent before the connection was taken over.
	buffered *bufio.Reader
	// now reads without waiting; nil if conn cannot.
	now *prompt
	// ended is closed when nothing comes from the client any more. Until then fromClient owns the two fields below.
	ended chan struct{}
	// clientErr is a failure of the client connection, nil for a clean end.
	clientErr error
	// closing ends the call when the peer does not, after the client's end.
	closing *time.Timer
}

func (u *upgraded) run() error {
	go u.fromClient()
	err := u.toClient()
	u.peerEnded.Store(true)
	if err == nil {
		// The peer has ended in order: let the client read all of it.
		if c, ok := u.conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
			_ = u.conn.SetReadDeadline(time.Now().Add(linger))
		} else {
			_ = u.conn.Close()
		}
	} else {
		u.abort()
		_ = u.conn.Close()
	}
	<-u.ended
	if u.closing != nil {
		u.closing.Stop()
	}
	if err == nil && !u.requestEnd.Load() {
		u.closeSend()
	}
	if err != nil && u.clientErr != nil {
		return &Error{Stage: StageReadBody, Hop: hopClient, Err: u.clientErr}
	}
	return err
}

// toClient writes what the peer sends. nil: the peer ended the call in order.
func (u *upgraded) toClient() error {
	out := gather{to: u}
	err := u.receive(&out)
	if failed := u.written(out.flush()); err == nil {
		return failed
	}
	return err
}

// receive gives out what the peer sends, flushed when the next frame is not there yet.
func (u *upgraded) receive(out *gather) error {
	for {
		m, ok := <-u.in
		if !ok || errors.Is(m.err, io.EOF) {
			return nil
		}
		if m.err != nil {
			return u.streamError(StageRead, m.err)
		}
		if m.member != frame.HTTPUpgradeData {
			m.data.Free()
			return u.broken("frame %d on an upgraded connection", m.member)
		}
		payload, err := frame.Unwrap(m.data, frame.HTTPUpgradeData)
		if err != nil {
			return u.broken("%v", err)
		}
		write := out.last
		if len(u.in) > 0 {
			write = out.add
		}
		if err := u.written(write(payload)); err != nil {
			return err
		}
	}
}

func (u *upgraded) written(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Stage: StageWrite, Hop: hopClient, Err: err}
}

// Write implements io.Writer: each write to the client has a deadline of its own.
func (u *upgraded) Write(p []byte) (int, error) {
	if err := u.conn.SetWriteDeadline(time.Now().Add(clientWriteTimeout)); err != nil {
		return 0, err
	}
	n, err := u.conn.Write(p)
	u.res.Received += int64(n)
	return n, err
}

// fromClient sends what the client writes. Its end half-closes the call, which the peer answers with its own end; a broken
// connection ends the call at once.
func (u *upgraded) fromClient() {
	defer close(u.ended)
	err := u.copyFromClient()
	switch {
	case err == nil:
		u.closing = time.AfterFunc(closeGrace, u.abort)
		u.closeSend()
	case u.peerEnded.Load():
	case errors.Is(err, errPeerEnded):
		// The connection is read on so that the client's last bytes do not reset it; toClient ends it.
		_, _ = io.Copy(io.Discard, u.conn)
	default:
		u.clientErr = err
		u.abort()
	}
}

// errPeerEnded: the peer takes no more bytes. Its own end explains why.
var errPeerEnded = fault.New(fault.Unavailable, hopAgent, "the agent takes no more data")

// copyFromClient returns nil at the client's clean end.
func (u *upgraded) copyFromClient() error {
	pool := mem.DefaultBufferPool()
	for {
		buf, n, err := u.read(pool)
		if n > 0 {
			*buf = (*buf)[:n]
			msg := frame.Wrap(frame.HTTPUpgradeData, mem.BufferSlice{mem.NewBuffer(buf, pool)})
			if u.s.Send(msg) != nil {
				return errPeerEnded
			}
			u.sent.Add(int64(n))
		} else {
			pool.Put(buf)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// read waits until the client has written something, with a small buffer, and takes what else is there with it, up to a full frame.
func (u *upgraded) read(pool mem.BufferPool) (*[]byte, int, error) {
	buf := pool.Get(minRead)
	n, err := u.from().Read(*buf)
	if u.now == nil || err != nil {
		return buf, n, err
	}
	u.now.impatient = true
	for err == nil && n < maxFrame {
		if n == len(*buf) {
			more := pool.Get(maxFrame)
			copy(*more, *buf)
			pool.Put(buf)
			buf = more
		}
		var m int
		m, err = u.from().Read((*buf)[n:])
		n += m
	}
	u.now.impatient = false
	if errors.Is(err, errNotYet) {
		err = nil
	}
	return buf, n, err
}

// from is what the client's bytes are read from: first what was read before the connection was taken over.
func (u *upgraded) from() io.Reader {
	if u.buffered.Buffered() > 0 {
		return u.buffered
	}
	return u.conn
}
