package gitaly

import (
	"context"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// recordLimit is how many calls are remembered.
const recordLimit = 10_000

// Fault is how calls misbehave.
type Fault struct {
	// Method is the last part of the method's name; empty: all.
	Method string
	// Delay is waited before the call is looked at.
	Delay time.Duration
	// Code and Message end the call; codes.OK does not. Details are packed into the status.
	Code    codes.Code
	Message string
	Details []proto.Message
	// After is how many messages a stream gives before.
	After int
	// Times is how many calls it hits, 0: all until Mend.
	Times int
}

// Call is one that was received.
type Call struct {
	// Method is the last part of the method's name.
	Method   string
	Metadata metadata.MD
	// Request is nil when the call did not get that far.
	Request proto.Message
	// Code is that of its end, once Done.
	Code codes.Code
	Done bool
}

// Busy is the fault of a server with too much to do, in the words of its release. A retryAfter of 0 gives no hint.
func (s *Server) Busy(method string, retryAfter time.Duration) Fault {
	f := Fault{Method: method, Code: codes.ResourceExhausted, Message: "maximum queue size reached"}
	if s.cfg.Personality < V16_2 {
		f.Code = codes.Unknown
		return f
	}
	f.Details = []proto.Message{&gitaly.LimitError{ErrorMessage: f.Message, RetryAfter: durationpb.New(retryAfter)}}
	return f
}

// Break makes calls misbehave. Of several faults for a call the one set last counts.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// Mend ends all misbehaviour.
func (s *Server) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Calls are those received, oldest first; method is the last part of the name, empty for all.
func (s *Server) Calls(method string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Call
	for _, c := range s.calls {
		if method == "" || c.Method == method {
			found = append(found, *c)
		}
	}
	return found
}

// ForgetCalls empties the record.
func (s *Server) ForgetCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// begin records a call and lets its fault begin.
func (s *Server) begin(ctx context.Context, fullMethod string) (*Call, Fault, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	call := &Call{Method: path.Base(fullMethod), Metadata: md.Copy()}
	fault := s.note(call)
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return call, fault, status.FromContextError(ctx.Err()).Err()
		}
	}
	if err := s.authenticate(ctx, fullMethod); err != nil {
		return call, fault, err
	}
	if !s.cfg.Personality.knows(fullMethod) {
		return call, fault, s.unknownMethod(fullMethod)
	}
	if fault.After == 0 {
		return call, fault, fault.err()
	}
	return call, fault, nil
}

func (s *Server) note(call *Call) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	if excess := len(s.calls) - recordLimit; excess > 0 {
		s.calls = slices.Delete(s.calls, 0, excess)
	}
	for i, f := range slices.Backward(s.faults) {
		if f.Method != "" && f.Method != call.Method {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return *f
	}
	return Fault{}
}

// finish notes the end of a call.
func (s *Server) finish(call *Call, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	call.Code, call.Done = status.Code(err), true
}

func (s *Server) asked(call *Call, request any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	call.Request, _ = request.(proto.Message)
}

func (f *Fault) err() error {
	if f.Code == codes.OK {
		return nil
	}
	st := status.New(f.Code, f.Message)
	for _, detail := range f.Details {
		with, err := st.WithDetails(protoadapt.MessageV1Of(detail))
		if err != nil {
			return err
		}
		st = with
	}
	return st.Err()
}

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	call, _, err := s.begin(ctx, info.FullMethod)
	s.asked(call, request)
	var response any
	if err == nil {
		response, err = handle(ctx, request)
	}
	s.finish(call, err)
	return response, err
}

func (s *Server) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	call, fault, err := s.begin(stream.Context(), info.FullMethod)
	if err == nil {
		err = handle(server, &watchedStream{ServerStream: stream, server: s, call: call, fault: fault})
	}
	s.finish(call, err)
	return err
}

// watchedStream records the request, and ends the stream where the fault wants it.
type watchedStream struct {
	grpc.ServerStream
	server *Server
	call   *Call
	fault  Fault
	sent   int
}

func (w *watchedStream) RecvMsg(m any) error {
	err := w.ServerStream.RecvMsg(m)
	if err == nil {
		w.server.asked(w.call, m)
	}
	return err
}

func (w *watchedStream) SendMsg(m any) error {
	if w.fault.After > 0 && w.sent >= w.fault.After {
		if err := w.fault.err(); err != nil {
			return err
		}
	}
	w.sent++
	return w.ServerStream.SendMsg(m)
}
