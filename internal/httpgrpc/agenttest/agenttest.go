// Package agenttest plays the agent's end of a call in tests, frame by frame, so that it can also misbehave. No generated code
// and no frame code of this project stands between a test and the bytes, except where a header is only a means to an end.
package agenttest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
)

// Members of HttpRequest and HttpResponse.
const (
	Header      = 1
	Data        = 2
	Trailer     = 3
	UpgradeData = 4
)

// queue is how many frames fit into one direction; then the sender is held back, as by flow control.
const queue = 16

// Call is kas' end of a call.
type Call struct {
	ctx      context.Context
	cancel   context.CancelFunc
	toAgent  chan []byte
	toKas    chan []byte
	closed   chan struct{}
	ended    chan struct{}
	result   error
	finished chan bool
	once     sync.Once
}

// Start begins a call whose agent runs script; the script's result is the call's status. The test waits for it at its end.
func Start(t *testing.T, ctx context.Context, script func(a *Agent) error) *Call {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	c := &Call{
		ctx: ctx, cancel: cancel,
		toAgent: make(chan []byte, queue), toKas: make(chan []byte, queue),
		closed: make(chan struct{}), ended: make(chan struct{}), finished: make(chan bool, 1),
	}
	go func() {
		defer close(c.ended)
		c.result = script(&Agent{Ctx: ctx, c: c})
	}()
	t.Cleanup(func() {
		cancel()
		<-c.ended
	})
	return c
}

// Send passes a message to the agent. After the agent's end it says io.EOF, as gRPC does.
func (c *Call) Send(msg mem.BufferSlice) error {
	raw := msg.Materialize()
	msg.Free()
	select {
	case <-c.closed:
		return status.Error(codes.Internal, "Send after CloseSend")
	default:
	}
	select {
	case c.toAgent <- raw:
		return nil
	case <-c.ended:
		return io.EOF
	case <-c.ctx.Done():
		return status.FromContextError(c.ctx.Err()).Err()
	}
}

// Recv returns the agent's next message, and its status after the last one.
func (c *Call) Recv() (mem.BufferSlice, error) {
	select {
	case raw := <-c.toKas:
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	default:
	}
	select {
	case raw := <-c.toKas:
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	case <-c.ctx.Done():
		return nil, status.FromContextError(c.ctx.Err()).Err()
	case <-c.ended:
		select {
		case raw := <-c.toKas:
			return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
		default:
		}
		if c.result == nil {
			return nil, io.EOF
		}
		return nil, c.result
	}
}

// CloseSend half-closes.
func (c *Call) CloseSend() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Finish ends the call.
func (c *Call) Finish(done bool) {
	c.finished <- done
	if !done {
		c.cancel()
	}
}

// Finished waits for Finish and returns its argument.
func (c *Call) Finished() bool { return <-c.finished }

// Abort cancels the call.
func (c *Call) Abort() { c.cancel() }

// Agent is the agent's end of a call, for its script only.
type Agent struct {
	// Ctx ends when kas aborts the call.
	Ctx context.Context
	c   *Call
}

// Recv returns the member and contents of the next message, or io.EOF after the half-close.
func (a *Agent) Recv() (int, []byte, error) {
	var raw []byte
	select {
	case raw = <-a.c.toAgent:
	default:
		select {
		case raw = <-a.c.toAgent:
		case <-a.Ctx.Done():
			return 0, nil, a.Ctx.Err()
		case <-a.c.closed:
			select {
			case raw = <-a.c.toAgent:
			default:
				return 0, nil, io.EOF
			}
		}
	}
	num, typ, n := protowire.ConsumeTag(raw)
	if n < 0 || typ != protowire.BytesType {
		return 0, nil, fmt.Errorf("kas sent %x", raw)
	}
	contents, m := protowire.ConsumeBytes(raw[n:])
	if m != len(raw)-n {
		return 0, nil, fmt.Errorf("kas sent %x", raw)
	}
	if num == Data || num == UpgradeData {
		_, _, n := protowire.ConsumeTag(contents)
		contents, _ = protowire.ConsumeBytes(contents[n:])
	}
	return int(num), contents, nil
}

// Request reads the request header.
func (a *Agent) Request() (*grpctool.HttpRequest_Header, error) {
	member, contents, err := a.Recv()
	if err != nil {
		return nil, err
	}
	if member != Header {
		return nil, fmt.Errorf("kas sent member %d instead of a header", member)
	}
	h := &grpctool.HttpRequest_Header{}
	return h, proto.Unmarshal(contents, h)
}

// Body reads the request body up to its trailer and, with upgrade false, up to the half-close.
func (a *Agent) Body(upgrade bool) ([]byte, error) {
	var body []byte
	for {
		member, contents, err := a.Recv()
		if err != nil {
			return body, err
		}
		switch member {
		case Data:
			body = append(body, contents...)
			continue
		case Trailer:
		default:
			return body, fmt.Errorf("kas sent member %d inside a body", member)
		}
		if upgrade {
			return body, nil
		}
		if _, _, err = a.Recv(); err != io.EOF {
			return body, fmt.Errorf("after the trailer: %w", err)
		}
		return body, nil
	}
}

// Whole reads a whole request without upgrade.
func (a *Agent) Whole() (*grpctool.HttpRequest_Header, []byte, error) {
	h, err := a.Request()
	if err != nil {
		return nil, nil, err
	}
	body, err := a.Body(false)
	return h, body, err
}

// Send sends raw bytes as one message.
func (a *Agent) Send(raw []byte) error {
	select {
	case a.c.toKas <- raw:
		return nil
	case <-a.Ctx.Done():
		return a.Ctx.Err()
	}
}

// Respond sends a response header; kv are names and values in turn.
func (a *Agent) Respond(code int32, kv ...string) error {
	var entries []*prototool.KeyValues
	for i := 0; i < len(kv); i += 2 {
		entries = append(entries, &prototool.KeyValues{Key: []byte(kv[i]), Value: &prototool.Values{Value: [][]byte{[]byte(kv[i+1])}}})
	}
	raw, err := proto.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
		Response: &prototool.HttpResponse{StatusCode: code, Status: "whatever", Header: entries},
	}}})
	if err != nil {
		return err
	}
	return a.Send(raw)
}

// Data sends body bytes.
func (a *Agent) Data(b string) error { return a.Send(bulk(Data, b)) }

// Upgraded sends bytes of an upgraded connection.
func (a *Agent) Upgraded(b string) error { return a.Send(bulk(UpgradeData, b)) }

// Trailer sends the response trailer.
func (a *Agent) Trailer() error { return a.Send([]byte{Trailer<<3 | 2, 0}) }

// Answer sends a whole response.
func (a *Agent) Answer(code int32, body string, kv ...string) error {
	if err := a.Respond(code, kv...); err != nil {
		return err
	}
	if body != "" {
		if err := a.Data(body); err != nil {
			return err
		}
	}
	return a.Trailer()
}

func bulk(member protowire.Number, b string) []byte {
	inner := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte(b))
	return protowire.AppendBytes(protowire.AppendTag(nil, member, protowire.BytesType), inner)
}
