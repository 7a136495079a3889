package tunnel

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/frame"
)

// Frames of an agent, written by hand.
const (
	rawDescriptor = "\x0a\x1a\x0a\x18\x0a\x16\x0a\x0ctest.Service\x12\x06\x0a\x04Echo"
	rawHeader     = "\x12\x00"
	rawMessage    = "\x1a\x03\x0a\x01x"
	rawTrailer    = "\x22\x00"
	rawError      = "\x2a\x04\x0a\x02\x08\x0e"
	rawNothing    = ""
	rawUnknown    = "\x4a\x00"
	rawGarbage    = "\xff\xff\xff"
)

// agentStream opens a Connect stream that a test speaks on itself.
func (l *line) agentStream() grpc.ClientStream {
	l.t.Helper()
	stream, err := l.dial().NewStream(l.ctx(), connectDesc, reversetunnel.ReverseTunnel_Connect_FullMethodName, grpc.ForceCodecV2(frame.Codec{}))
	if err != nil {
		l.t.Fatal(err)
	}
	return stream
}

func say(t *testing.T, stream grpc.ClientStream, raw string) {
	t.Helper()
	if err := stream.SendMsg(&frame.Raw{Data: mem.BufferSlice{mem.SliceBuffer([]byte(raw))}}); err != nil {
		t.Fatal(err)
	}
}

func TestBreach_FirstMessage(t *testing.T) {
	for name, raw := range map[string]string{
		"header": rawHeader, "message": rawMessage, "trailer": rawTrailer, "error": rawError, "nothing": rawNothing,
		"unknown member": rawUnknown, "garbage": rawGarbage, "descriptor without contents": "\x0a\x00",
		"service without a name": "\x0a\x04\x0a\x02\x0a\x00",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			say(t, l.agentStream(), raw)
			if err := <-l.ended; status.Code(err) != codes.InvalidArgument {
				t.Errorf("ended with %v, want InvalidArgument", err)
			}
			if l.registry.Presence(agentID).Connected {
				t.Error("the stream is registered")
			}
		})
	}
}

func TestBreach_SilentPeer(t *testing.T) {
	l := newLine(t)
	stream := l.agentStream()
	if err := <-l.ended; status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("ended with %v, want DeadlineExceeded", err)
	}
	if err := stream.RecvMsg(&frame.Raw{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the peer got %v", err)
	}
}

func TestBreach_EndBeforeDescriptor(t *testing.T) {
	l := newLine(t)
	if err := l.agentStream().CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-l.ended; status.Code(err) != codes.InvalidArgument {
		t.Errorf("ended with %v, want InvalidArgument", err)
	}
}

func TestBreach_OrderAfterDescriptor(t *testing.T) {
	for name, raws := range map[string][]string{
		"message first":            {rawMessage},
		"trailer first":            {rawTrailer},
		"second descriptor":        {rawDescriptor},
		"header twice":             {rawHeader, rawHeader},
		"error without trailer":    {rawHeader, rawError},
		"message after trailer":    {rawHeader, rawTrailer, rawMessage},
		"trailer twice":            {rawHeader, rawTrailer, rawTrailer},
		"message after error":      {rawError, rawMessage},
		"nothing":                  {rawHeader, rawNothing},
		"unknown member":           {rawHeader, rawUnknown},
		"garbage":                  {rawHeader, rawGarbage},
		"error with status OK":     {rawHeader, rawTrailer, "\x2a\x02\x0a\x00"},
		"half-close after header":  {rawHeader},
		"half-close after message": {rawHeader, rawMessage},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			stream := l.agentStream()
			say(t, stream, rawDescriptor)
			tun := l.open(l.ctx())
			for _, raw := range raws {
				say(t, stream, raw)
			}
			if err := stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
			var err error
			for err == nil {
				var msg mem.BufferSlice
				msg, err = tun.Recv()
				msg.Free()
			}
			if name == "message after error" { // the caller has its answer with the error; what follows is refused
				if status.Code(err) != codes.Unavailable {
					t.Errorf("the caller got %v", err)
				}
				tun.Finish(true)
			} else {
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("the caller got %v, want InvalidArgument", err)
				}
				tun.Finish(false)
			}
			if err := <-l.ended; status.Code(err) != codes.InvalidArgument {
				t.Errorf("the agent's RPC ended with %v, want InvalidArgument", err)
			}
			eventually(t, "nothing is left", func() bool { return !l.registry.Presence(agentID).Connected })
		})
	}
}

func TestBreach_Oversize(t *testing.T) {
	l := newLine(t)
	stream := l.agentStream()
	say(t, stream, rawDescriptor)
	tun := l.open(l.ctx())
	say(t, stream, rawHeader)
	// The peer may be cut off while it still sends: the error is the receiver's to see.
	_ = stream.SendMsg(&frame.Raw{Data: mem.BufferSlice{mem.SliceBuffer(make([]byte, 5<<20))}})
	if _, err := tun.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the caller got %v", err)
	}
	tun.Finish(false)
	if err := stream.RecvMsg(&reversetunnel.ConnectResponse{}); err != nil { // request info
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&reversetunnel.ConnectResponse{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the agent got %v", err)
	}
}

func TestAgentError_AtOnceIsLegal(t *testing.T) {
	l := newLine(t)
	stream := l.agentStream()
	say(t, stream, rawDescriptor)
	tun := l.open(l.ctx())
	say(t, stream, rawError)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := tun.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the caller got %v", err)
	}
	tun.Finish(true)
	if err := <-l.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestAgentLost_NamesTheAgent(t *testing.T) {
	l := newLine(t)
	conn := l.dial()
	stream, err := conn.NewStream(l.ctx(), connectDesc, reversetunnel.ReverseTunnel_Connect_FullMethodName, grpc.ForceCodecV2(frame.Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	say(t, stream, rawDescriptor)
	tun := l.open(l.ctx())
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = tun.Recv()
	if st := status.Convert(err); st.Code() != codes.Canceled || st.Message() != "agent disconnected before it had answered: context canceled" {
		t.Errorf("got %v", err)
	}
	tun.Finish(false)
}
