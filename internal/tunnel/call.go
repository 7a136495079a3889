package tunnel

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

const (
	// queueLen is how many request messages wait for a slow handler before the peer is held back.
	queueLen = 8
	// endTimeout is how long kas may take to end a stream after the agent has half-closed it. What its caller has not read yet
	// would be lost with the stream, and callers may stop reading for long: the user of a pager has time.
	endTimeout = time.Hour
	// failTimeout is the same after a failed call. Nothing is to be read then, but servers of GitLab's wait for the end of a
	// request whose client waits for them.
	failTimeout = 10 * time.Second
)

// headerMessage is the one response header there is to say, as a stock agent says it.
var headerMessage = mustMarshal(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Header{
	Header: &reversetunnel.Header{Meta: []*prototool.KeyValues{keyValue("content-type", "application/grpc+proto")}},
}})

// emptyHeader precedes the trailer of a call that failed before it had an answer.
var (
	emptyHeader  = []byte{0x12, 0x00}
	emptyTrailer = []byte{0x22, 0x00}
)

func mustMarshal(m proto.Message) []byte {
	raw, err := proto.Marshal(m)
	if err != nil {
		panic(err) // a constant of this file
	}
	return raw
}

// call is one call in progress at the agent. The handler runs on the slot's goroutine, and receives there from the stream itself until
// it calls Ahead.
type call struct {
	slot  *slot
	lives *lives
	held  *heldStream
	// ctx is the handler's, end ends it.
	ctx context.Context
	end context.CancelCauseFunc
	// method is "/service/method".
	method string
	meta   metadata.MD
	// ahead is nil until the handler asks for it; then its goroutine is the one that receives.
	ahead *ahead
	// accepted: the call is over, and its stream is parked again.
	accepted atomic.Bool

	// Of whoever receives. over is why no request message follows any more: io.EOF when kas has half-closed, or the end of the call.
	over error
	// ended: nothing more of the call will come, since the stream has ended, with streamErr as its own error, or because of next, which
	// begins the next call.
	ended     bool
	streamErr error
	next      mem.BufferSlice

	// headerSent belongs to who sends.
	headerSent bool
}

// ahead is a call's second goroutine, which receives while the handler does something else.
type ahead struct {
	// queue holds request messages and is closed when no more will come; nil: no more were to come.
	queue chan mem.BufferSlice
	// handled is closed when nobody wants what is received any more.
	handled chan struct{}
	// done is closed when nothing more of the call will come, unless the goroutine goes on with the slot: whose decides what happens first.
	done chan struct{}
	goes atomic.Int32
}

// How a call's second goroutine goes on.
const (
	undecided int32 = iota
	endsFirst
	takesOver
)

// finish tells kas how the call went and waits until kas has ended the stream.
func (c *call) finish(p *Pool, err error) error {
	if c.conclude(err) != nil {
		c.held.cancel(errors.New("the tunnel stream is lost"))
	}
	patience := endTimeout
	if err != nil {
		patience = failTimeout
	}
	timeout := time.AfterFunc(patience, func() { c.held.cancel(errors.New("kas did not end the stream")) })
	defer timeout.Stop()
	concluded := time.Now()
	lost := c.waitForEnd()
	if err == nil && lost == nil {
		p.answered(c.held.address, time.Since(concluded)) // with the end of the stream, to ours
	}
	return lost
}

// waitForEnd waits until kas has ended the stream, and drops what still comes.
func (c *call) waitForEnd() error {
	if c.ahead == nil {
		for !c.ended {
			c.receiveOne().Free()
		}
		return c.streamErr
	}
	close(c.ahead.handled)
	<-c.ahead.done
	if c.ahead.queue != nil {
		for msg := range c.ahead.queue {
			msg.Free()
		}
	}
	return c.streamErr
}

// whole says whether kas has half-closed a call whose handler has returned.
func (c *call) whole() bool {
	if c.ahead != nil && c.ahead.queue != nil {
		select {
		case msg, ok := <-c.ahead.queue:
			if ok { // that nobody has asked for
				msg.Free()
				return false
			}
		default:
			return false
		}
	}
	return errors.Is(c.over, io.EOF)
}

// accept ends a call that is whole, with OK, such that the stream is parked again. Whether it could is seen by who receives. It says whether
// that is the call's second goroutine, which then goes on with the slot.
func (c *call) accept() (handed bool) {
	c.accepted.Store(true)
	if c.ahead != nil && !c.ahead.goes.CompareAndSwap(undecided, takesOver) {
		return false // the stream has ended
	}
	if !c.headerSent {
		_ = c.send(mem.BufferSlice{mem.SliceBuffer(emptyHeader)})
	}
	_ = c.send(mem.BufferSlice{mem.SliceBuffer(againTrailer)})
	return c.ahead != nil
}

// following waits for the message that begins the next call, as receive does, where this goroutine still has the slot.
func (c *call) following() (mem.BufferSlice, error) {
	if c.ahead == nil {
		return c.held.receive()
	}
	<-c.ahead.done
	return c.next, c.streamErr
}

// receiveOne receives until there is a request message, or nil and over is set.
func (c *call) receiveOne() mem.BufferSlice {
	raw := frame.Raw{}
	if err := c.held.rpc.RecvMsg(&raw); err != nil {
		c.ended = true
		why := error(status.Error(codes.Canceled, "kas ended the request"))
		if !errors.Is(err, io.EOF) {
			c.streamErr, why = err, err
		}
		c.lost(errors.New("kas ended the request"), why)
		return nil
	}
	member, err := frame.Member(raw.Data, frame.ConnectCloseSend)
	switch {
	case err == nil && c.over == nil && member == frame.ConnectResponseMessage:
		payload, err := frame.Unwrap(raw.Data, member)
		if err == nil {
			return payload
		}
	case err == nil && c.over == nil && member == frame.ConnectCloseSend:
		raw.Data.Free()
		c.over = io.EOF
		return nil
	case err == nil && member == frame.ConnectRequestInfo && c.accepted.Load():
		c.ended, c.next = true, raw.Data
		return nil
	default:
		raw.Data.Free()
	}
	breach := fault.New(fault.InvalidArgument, fault.Kas, "kas broke the tunnel protocol: message out of order or malformed")
	c.ended, c.streamErr = true, breach
	c.lost(breach, breach)
	return nil
}

// lost ends the stream and the call's context with cause. why is what a Recv says, unless kas has half-closed before.
func (c *call) lost(cause, why error) {
	c.held.cancel(cause)
	c.end(cause)
	if c.over == nil {
		c.over = why
	}
}

// Ahead implements httpgrpc.ResponderStream.
func (c *call) Ahead() {
	if c.ahead != nil {
		return
	}
	a := &ahead{handled: make(chan struct{}), done: make(chan struct{})}
	if c.over == nil {
		a.queue = make(chan mem.BufferSlice, queueLen)
	}
	c.ahead = a
	c.slot.pool.wg.Go(func() { c.receive(a) })
}

// receive reads the stream until kas ends it or begins the next call, so that an abort is noticed also while the handler waits for the cluster.
func (c *call) receive(a *ahead) {
	open := c.over == nil
	for !c.ended {
		msg := c.receiveOne()
		switch {
		case c.over == nil:
			select {
			case a.queue <- msg:
			case <-a.handled:
				msg.Free()
			}
		case open:
			open = false
			close(a.queue)
		}
	}
	if a.goes.CompareAndSwap(undecided, endsFirst) {
		close(a.done)
		return
	}
	c.slot.resume(c)
}

// Recv returns the next request message, or io.EOF when kas has half-closed.
func (c *call) Recv() (mem.BufferSlice, error) {
	var msg mem.BufferSlice
	switch {
	case c.ahead == nil && c.over == nil:
		msg = c.receiveOne()
		if c.over == nil {
			return msg, nil
		}
	case c.ahead != nil && c.ahead.queue != nil:
		var ok bool
		if msg, ok = <-c.ahead.queue; ok {
			return msg, nil
		}
	}
	return nil, c.over
}

// Received is how many request messages a Recv would return at once; 0: that is not known.
func (c *call) Received() int {
	if c.ahead == nil {
		return 0
	}
	return len(c.ahead.queue)
}

// Send sends one response message. It owns msg.
func (c *call) Send(msg mem.BufferSlice) error {
	if c.accepted.Load() {
		msg.Free()
		return status.Error(codes.Canceled, "the request is over")
	}
	if !c.headerSent {
		c.headerSent = true
		if err := c.send(mem.BufferSlice{mem.SliceBuffer(headerMessage)}); err != nil {
			msg.Free()
			return err
		}
	}
	return c.send(frame.Wrap(frame.ConnectMessage, msg))
}

func (c *call) send(msg mem.BufferSlice) error {
	err := c.held.rpc.SendMsg(&frame.Raw{Data: msg})
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Canceled, "kas ended the request")
	}
	return err
}

// conclude ends the call: trailer, the error if there is one, half-close.
func (c *call) conclude(err error) error {
	messages := make([]mem.BufferSlice, 0, 3)
	if !c.headerSent {
		messages = append(messages, mem.BufferSlice{mem.SliceBuffer(emptyHeader)})
	}
	messages = append(messages, mem.BufferSlice{mem.SliceBuffer(emptyTrailer)})
	if err != nil {
		st, ok := status.FromError(err)
		if !ok {
			st = status.FromContextError(err)
		}
		said := st.Proto()
		said.Message = strings.ToValidUTF8(said.GetMessage(), "\uFFFD") // what failed may quote anything
		raw, merr := frame.Marshal(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Error{
			Error: &reversetunnel.Error{Status: said},
		}})
		if merr != nil {
			return merr
		}
		messages = append(messages, raw)
	}
	for _, msg := range messages {
		if err := c.send(msg); err != nil {
			return err
		}
	}
	return c.held.rpc.CloseSend()
}
