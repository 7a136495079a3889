package tunnel

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
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

// call is one call in progress at the agent. The slot's goroutine receives, the handler's goroutine sends.
type call struct {
	stream grpc.ClientStream
	cancel context.CancelCauseFunc
	// queue holds request messages. It is closed when no more will come; recvErr, set before, says why.
	queue   chan mem.BufferSlice
	recvErr error
	// headerSent belongs to the handler's goroutine.
	headerSent bool
}

func newCall(stream grpc.ClientStream, cancel context.CancelCauseFunc) *call {
	return &call{stream: stream, cancel: cancel, queue: make(chan mem.BufferSlice, queueLen)}
}

// serve runs the call to its end. The returned error is the stream's, not the call's.
func (c *call) serve(ctx context.Context, p *Pool, method string, meta metadata.MD) error {
	handled := make(chan struct{})
	var timeout *time.Timer
	go func() { // serve waits for it
		defer close(handled)
		handler := p.handlers[method]
		err := p.handle(func() error {
			if handler == nil {
				return fault.New(fault.Unimplemented, fault.Agent, "agent does not serve %s", method)
			}
			return handler(ctx, meta, c)
		})
		if c.conclude(err) != nil {
			c.cancel(errors.New("the tunnel stream is lost"))
		}
		patience := endTimeout
		if err != nil {
			patience = failTimeout
		}
		timeout = time.AfterFunc(patience, func() { c.cancel(errors.New("kas did not end the stream")) })
	}()
	err := c.receive(handled)
	<-handled
	timeout.Stop()
	for {
		select {
		case msg, more := <-c.queue:
			if more {
				msg.Free()
				continue
			}
		default:
		}
		return err
	}
}

// receive reads the stream until kas ends it, so that an abort is noticed also while the handler waits for the cluster.
func (c *call) receive(handled <-chan struct{}) error {
	open := true
	done := func(why error) {
		if open {
			open = false
			c.recvErr = why
			close(c.queue)
		}
	}
	for {
		raw := frame.Raw{}
		if err := c.stream.RecvMsg(&raw); err != nil {
			c.cancel(errors.New("kas ended the request"))
			if errors.Is(err, io.EOF) {
				done(status.Error(codes.Canceled, "kas ended the request"))
				return nil
			}
			done(err)
			return err
		}
		member, err := frame.Member(raw.Data, frame.ConnectCloseSend)
		if err == nil && open && member == frame.ConnectResponseMessage {
			if payload, err := frame.Unwrap(raw.Data, member); err == nil {
				select {
				case c.queue <- payload:
				case <-handled:
					payload.Free()
				}
				continue
			}
		} else {
			raw.Data.Free()
		}
		if err == nil && open && member == frame.ConnectCloseSend {
			done(io.EOF)
			continue
		}
		breach := fault.New(fault.InvalidArgument, fault.Kas, "kas broke the tunnel protocol: message out of order or malformed")
		c.cancel(breach)
		done(breach)
		return breach
	}
}

// Recv returns the next request message, or io.EOF when kas has half-closed.
func (c *call) Recv() (mem.BufferSlice, error) {
	msg, ok := <-c.queue
	if !ok {
		return nil, c.recvErr
	}
	return msg, nil
}

// Send sends one response message. It owns msg.
func (c *call) Send(msg mem.BufferSlice) error {
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
	err := c.stream.SendMsg(&frame.Raw{Data: msg})
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
		raw, merr := frame.Marshal(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Error{
			Error: &reversetunnel.Error{Status: st.Proto()},
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
	return c.stream.CloseSend()
}
