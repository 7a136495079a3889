package kasdial

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"gitlab.com/agentk/agentk/internal/wsconn"
)

// watchedCredentials wrap gRPC's own: this is where a connection has passed everything but HTTP/2.
type watchedCredentials struct {
	credentials.TransportCredentials
	monitor *monitor
}

// ClientHandshake tells handshakes that fail, and watches the connections of those that do not.
func (w *watchedCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		err = wsconn.ExplainTLS(w.monitor.host, err)
		w.monitor.failed(err, false)
		return nil, nil, err
	}
	return newWatchedConn(conn, w.monitor), info, nil
}

// Clone is used by gRPC for every connection attempt that changes the server name.
func (w *watchedCredentials) Clone() credentials.TransportCredentials {
	return &watchedCredentials{TransportCredentials: w.TransportCredentials.Clone(), monitor: w.monitor}
}

// The frame that an HTTP/2 server must send first.
const (
	frameHeader    = 9
	settingsOffset = 3 // of the type byte
	settingsFrame  = 4
	settingSize    = 6
	// maxSettings bounds what is looked at: servers send a handful of settings.
	maxSettings = frameHeader + 32*settingSize
	// settingStreams is the id of SETTINGS_MAX_CONCURRENT_STREAMS.
	settingStreams = 3
)

var (
	errNoHTTP2 = errors.New("the server does not speak HTTP/2 here: do scheme and port belong together?")
	errHungUp  = errors.New("the server, or something on the way to it, closed the connection before it spoke HTTP/2: do scheme and port belong together?")
)

// watchedConn remembers how a connection went, because gRPC does not tell.
type watchedConn struct {
	net.Conn
	monitor *monitor
	close   sync.Once
	lastGot atomic.Int64 // UnixNano

	// Only the reader uses these: the beginning of the first frame, and whether enough of it was seen.
	head   []byte
	looked bool

	// mu guards the fields below.
	mu      sync.Mutex
	isHTTP2 bool
	closed  bool
	err     error // of the first Read that failed while we had not closed it
}

func newWatchedConn(conn net.Conn, m *monitor) *watchedConn {
	c := &watchedConn{Conn: conn, monitor: m}
	c.lastGot.Store(time.Now().UnixNano())
	return c
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.lastGot.Store(time.Now().UnixNano())
		if !c.looked {
			c.look(p[:n])
		}
	}
	if err != nil {
		c.mu.Lock()
		if c.err == nil && !c.closed {
			c.err = err
		}
		c.mu.Unlock()
	}
	return n, err
}

// look waits for the first frame, which tells HTTP/2 by its type byte, and then how many streams the server takes.
func (c *watchedConn) look(p []byte) {
	before := len(c.head)
	c.head = append(c.head, p[:min(len(p), maxSettings-before)]...)
	if len(c.head) <= settingsOffset {
		return
	}
	if c.head[settingsOffset] != settingsFrame {
		c.looked, c.head = true, nil
		return
	}
	if before <= settingsOffset {
		c.mu.Lock()
		c.isHTTP2 = true
		c.mu.Unlock()
		c.monitor.established(c)
	}
	if len(c.head) < frameHeader {
		return
	}
	end := frameHeader + (int(c.head[0])<<16 | int(c.head[1])<<8 | int(c.head[2]))
	if len(c.head) < min(end, maxSettings) {
		return
	}
	c.monitor.limit.Store(streamsIn(c.head[frameHeader:min(end, maxSettings)]))
	c.looked, c.head = true, nil
}

// streamsIn returns how many streams the payload of a SETTINGS frame allows; 0: it sets no limit.
func streamsIn(settings []byte) uint32 {
	streams := uint32(0)
	for ; len(settings) >= settingSize; settings = settings[settingSize:] {
		if binary.BigEndian.Uint16(settings) == settingStreams {
			streams = binary.BigEndian.Uint32(settings[2:])
		}
	}
	return streams
}

// Close tells a connection that ended before the peer spoke HTTP/2.
func (c *watchedConn) Close() error {
	c.close.Do(func() {
		c.mu.Lock()
		c.closed = true
		failed, err := !c.isHTTP2, c.err
		c.mu.Unlock()
		switch {
		case failed && err == nil:
			err = errNoHTTP2
		case failed && errors.Is(err, io.EOF):
			err = errHungUp
		}
		if failed {
			c.monitor.failed(err, false)
		}
	})
	return c.Conn.Close()
}

// gone says whether the connection has ended for whatever reason.
func (c *watchedConn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || c.err != nil
}

// end says with what error the peer ended the connection, if it did, and for how long it has said nothing.
func (c *watchedConn) end() (silent time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(time.Unix(0, c.lastGot.Load())), c.err
}
