package httpgrpc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	// maxChunk is the largest data frame sent.
	maxChunk = 32 << 10
	// idleChunk is what a read may use while little data comes.
	idleChunk = 4 << 10
	// chunkHead is longer than what announces a chunk: whoever has so much of a chunked body has some of its data.
	chunkHead = 32
	// smallRead is up to which size a read is copied out of its buffer instead of giving the buffer away.
	smallRead = 1 << 10
)

// respond passes the answer on. It returns once the requester has everything.
func (x *served) respond(resp *http.Response) error {
	switching := resp.StatusCode == http.StatusSwitchingProtocols
	conn, isConn := resp.Body.(io.ReadWriteCloser)
	switch {
	case switching && !x.frames.upgrade:
		return errors.New("answer 101 to a request that asked for no upgrade")
	case switching && !isConn: // without an Upgrade header nobody knows to what
		return errors.New("answer 101 without an upgrade")
	}
	head, err := responseHeaderMessage(resp)
	if err != nil {
		return err
	}
	ready := !switching && arrived(resp)
	if ready || !switching && resp.ContentLength >= 0 && resp.ContentLength <= maxChunk {
		return x.respondTogether(head, resp, ready)
	}
	if err := x.stream.Send(head); err != nil {
		return err
	}
	if switching {
		return x.upgraded(conn)
	}
	return x.respondBody(resp, x.stream)
}

// respondTogether passes on an answer whose body has begun to arrive, or is short and of known length. Who answers like that has mostly
// sent it whole, so that the head waits a moment for it: they go out together, as one write.
func (x *served) respondTogether(head mem.BufferSlice, resp *http.Response, ready bool) (err error) {
	held := hold(x.stream, head, ready)
	defer func() { // also when reading the body panics: nothing may be sent beside what the stream's owner then says
		if sendErr := held.release(); sendErr != nil {
			err = sendErr
		}
	}()
	return x.respondBody(resp, held)
}

// arrived says whether the first read of a body will not wait, as far as the body can tell.
func arrived(resp *http.Response) bool {
	if resp.Body == http.NoBody {
		return true
	}
	b, ok := resp.Body.(interface{ Buffered() int })
	if !ok {
		return false
	}
	if resp.ContentLength < 0 {
		return b.Buffered() >= chunkHead
	}
	return b.Buffered() > 0
}

// respondBody passes on what follows the head.
func (x *served) respondBody(resp *http.Response, to Sender) error {
	err := x.copy(to, resp.Body, frame.HTTPData, firstChunk(resp), resp.ProtoMajor == 2 && resp.ContentLength < 0)
	return x.end(to, err)
}

func firstChunk(resp *http.Response) int {
	if resp.ContentLength > idleChunk {
		return maxChunk
	}
	return idleChunk
}

// end concludes an answer whose body has been passed on, or why it could not be.
func (x *served) end(to Sender, err error) error {
	if err != nil && !(x.watch && errors.Is(context.Cause(x.ctx), ErrStopping)) {
		return atStep("read HTTP response body", err)
	}
	if err := to.Send(frame.Empty(frame.HTTPTrailer)); err != nil {
		return err
	}
	return x.drain()
}

// upgraded carries the bytes of a switched connection.
func (x *served) upgraded(conn io.ReadWriteCloser) error {
	if err := x.stream.Send(frame.Empty(frame.HTTPTrailer)); err != nil {
		return err
	}
	return x.pipe(conn)
}

// copy sends what it reads, each read at once. Errors of sending are sendErrors; others come from reading. waits says that a read
// of nothing waits for data, as that of an HTTP/2 body does: a watch may be silent for hours, and then holds no buffer. The stack is held,
// too, so that the frames are small here and in what calls this.
func (x *served) copy(to Sender, from io.Reader, member protowire.Number, chunk int, waits bool) error {
	for {
		if waits && chunk == idleChunk {
			if _, err := from.Read(nil); err != nil {
				return ended(err)
			}
		}
		n, err := pass(to, from, member, chunk)
		if err != nil {
			return ended(err)
		}
		switch {
		case n == chunk:
			chunk = maxChunk
		case n < idleChunk:
			chunk = idleChunk
		}
	}
}

// ended is err, or nil for the end of what was read.
func ended(err error) error {
	var failed *sendError
	if errors.Is(err, io.EOF) && !errors.As(err, &failed) {
		return nil
	}
	return err
}

// pass reads once and sends what it got, how many bytes it returns.
func pass(to Sender, from io.Reader, member protowire.Number, chunk int) (int, error) {
	pool := mem.DefaultBufferPool()
	buf := pool.Get(chunk)
	n, err := from.Read(*buf)
	payload := take(pool, buf, n)
	if n > 0 {
		if err := to.Send(frame.Wrap(member, payload)); err != nil {
			return n, &sendError{err}
		}
	}
	return n, err
}

// take turns the first n bytes of buf into a payload that frees itself.
func take(pool mem.BufferPool, buf *[]byte, n int) mem.BufferSlice {
	if n <= smallRead {
		small := make(mem.SliceBuffer, n)
		copy(small, *buf)
		pool.Put(buf)
		return mem.BufferSlice{small}
	}
	*buf = (*buf)[:n]
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}
}

// drain waits until the requester has sent its body, which nobody reads any more; what it does wrong from here on does not
// matter. After a refused upgrade there is nothing to wait for: whatever follows is not received at all.
func (x *served) drain() error {
	if x.body == nil || x.frames.upgrade {
		return nil
	}
	_ = x.body.Close()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-x.body.done:
	case <-timer.C:
	case <-x.ctx.Done():
	}
	return nil
}
