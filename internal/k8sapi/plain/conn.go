package plain

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync/atomic"
	"time"
)

// unanswered is the failure of a connection that has brought nothing of the answer.
type unanswered struct {
	err error
	// unsent: nothing of the request can have reached the server.
	unsent bool
}

func (e *unanswered) Error() string { return "connection ended before the answer: " + e.err.Error() }
func (e *unanswered) Unwrap() error { return e.err }

// errBodyClosed is what a read of a closed body says.
var errBodyClosed = errors.New("read on closed answer body")

// conn is a connection to the API server. It is used by one exchange at a time; only abort may come from elsewhere.
type conn struct {
	pool  *Pool
	wire  *wire
	tls   *tls.Conn
	state *tls.ConnectionState
	// limit is how many bytes may still be read.
	limit int64
	// since is when the last answer ended.
	since time.Time
	probe [1]byte
}

// Read is what the reader of an answer reads from.
func (c *conn) Read(p []byte) (int, error) {
	if c.limit <= 0 {
		return 0, io.EOF // which converse explains
	}
	if int64(len(p)) > c.limit {
		p = p[:c.limit]
	}
	n, err := c.tls.Read(p)
	c.limit -= int64(n)
	return n, err
}

// abort closes the connection at once and ends whoever waits for it. It may be called at any time, and more than once.
func (c *conn) abort() { _ = c.wire.Close() }

// leave closes a connection without an exchange, in order.
func (c *conn) leave() { _ = c.tls.Close() }

// quiet says whether nothing has come in since the last answer: neither the server's end of the connection nor an answer to no
// question, such as the 408 of a proxy that is tired of waiting. It does not wait.
func (c *conn) quiet() bool {
	c.wire.atOnce = true
	_, err := c.tls.Read(c.probe[:])
	c.wire.atOnce = false
	return errors.Is(err, errNothing)
}

// exchange writes a request and reads the answer, whose body is still to come. After an error the connection is of no use.
func (c *conn) exchange(req *http.Request, head []byte) (*http.Response, error) {
	ctx := req.Context()
	stop := context.AfterFunc(ctx, c.abort)
	in := c.pool.readers.Get().(*bufio.Reader)
	in.Reset(c)
	resp, err := c.converse(req, head, in)
	if err != nil {
		stop()
		c.abort()
		return nil, caused(ctx, err)
	}
	resp.TLS = c.state
	b := &body{from: resp.Body, conn: c, in: in, ctx: ctx, stop: stop}
	b.keep = !resp.Close && resp.StatusCode >= http.StatusOK
	if resp.Body == http.NoBody {
		b.end(ended)
	} else {
		resp.Body = b
	}
	return resp, nil
}

// converse reads the head of the final answer; informational ones are skipped.
func (c *conn) converse(req *http.Request, head []byte, in *bufio.Reader) (*http.Response, error) {
	if n, err := c.tls.Write(head); err != nil {
		return nil, &unanswered{err: err, unsent: n == 0}
	}
	c.limit = c.pool.cfg.MaxHeader
	if _, err := in.Peek(1); err != nil {
		return nil, &unanswered{err: err}
	}
	for {
		resp, err := http.ReadResponse(in, req)
		if err != nil && c.limit <= 0 {
			return nil, fmt.Errorf("header of the answer exceeds %d bytes", c.pool.cfg.MaxHeader)
		}
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= http.StatusOK || resp.StatusCode == http.StatusSwitchingProtocols {
			c.limit = math.MaxInt64
			return resp, nil
		}
	}
}

// States of a body.
const (
	open int32 = iota
	ended
	closed
)

// body is the body of an answer. Its end gives the connection back, any other way to stop closes it.
type body struct {
	from io.Reader
	conn *conn
	in   *bufio.Reader
	ctx  context.Context
	// stop ends the watch over ctx; it says false when that has ended the connection.
	stop func() bool
	// keep: the connection can have another exchange.
	keep  bool
	state atomic.Int32
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	switch b.state.Load() {
	case ended:
		return 0, io.EOF
	case closed:
		return 0, errBodyClosed
	}
	n, err := b.from.Read(p)
	switch {
	case err == nil:
	case err == io.EOF: // one that is wrapped is a failure
		b.end(ended)
	default:
		b.end(closed)
		err = caused(b.ctx, err)
	}
	return n, err
}

// Buffered returns how many bytes that follow the head are here already, with what frames the chunks of a chunked body. It must not be
// called during a Read.
func (b *body) Buffered() int {
	if b.state.Load() != open {
		return 0
	}
	return b.in.Buffered()
}

// Close implements io.Closer. It may be called during a Read, which it ends.
func (b *body) Close() error {
	b.end(closed)
	return nil
}

func (b *body) end(how int32) {
	if !b.state.CompareAndSwap(open, how) {
		return
	}
	live := b.stop()
	left := true
	if how == ended { // otherwise a Read may still use the reader
		left = b.in.Buffered() > 0
		b.in.Reset(nil)
		b.conn.pool.readers.Put(b.in)
	}
	if live && b.keep && !left {
		b.conn.pool.put(b.conn)
	} else {
		b.conn.abort()
	}
	<-b.conn.pool.cfg.Places
}
