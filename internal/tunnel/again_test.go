package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// rawAgain is a Trailer that accepts the offer, written by hand.
const rawAgain = "\x22\x15\x0a\x13\x0a\x0cagentk-again\x12\x03\x0a\x011"

// echoAhead is an echo that does not wait for the request.
func echoAhead(ctx context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
	s.Ahead()
	return echo(ctx, md, s)
}

// idles waits until all streams of the agent are parked.
func (l *line) idles() {
	l.t.Helper()
	eventually(l.t, "all streams are parked", func() bool {
		p := l.registry.Presence(agentID)
		return p.Busy == 0 && p.Idle >= minIdle
	})
}

// Calls that end in order need no new stream, whoever receives the end of their request.
func TestAgain_OneStreamServesManyCalls(t *testing.T) {
	for name, h := range map[string]Handler{"receiving itself": echo, "ahead": echoAhead} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.pool(minIdle, h)
			for range 100 {
				l.idles()
				if err := l.call(); err != nil {
					t.Fatal(err)
				}
			}
			if n := l.opened.Load(); n > minIdle {
				t.Errorf("100 calls took %d streams", n)
			}
		})
	}
}

// A caller that has its answer does not wait for what the agent says after it.
func TestAgain_CallerLeavesBeforeTheTrailer(t *testing.T) {
	l := newLine(t)
	l.pool(minIdle, echoAhead)
	for range 50 {
		l.idles()
		tun := l.open(l.ctx())
		if got, err := roundTrip(tun, "x"); err != nil || got != "x" {
			t.Fatalf("got %q, %v", got, err)
		}
		if err := tun.CloseSend(); err != nil {
			t.Fatal(err)
		}
		tun.Finish(true)
	}
	l.idles()
	if n := l.opened.Load(); n > minIdle {
		t.Errorf("50 calls took %d streams", n)
	}
}

// A call that failed, or whose request was not sent to its end, takes its stream with it.
func TestAgain_NotAfterAnUnevenEnd(t *testing.T) {
	refuse := func(context.Context, metadata.MD, httpgrpc.ResponderStream) error {
		return fault.New(fault.Unavailable, fault.APIServer, "connection refused")
	}
	early := func(_ context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
		s.Ahead()
		return s.Send(text("early"))
	}
	for name, c := range map[string]struct {
		handler Handler
		closes  bool
	}{
		"an error": {refuse, true}, "an answer before the request has ended": {early, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.pool(minIdle, c.handler)
			for range 10 {
				l.idles()
				tun := l.open(l.ctx())
				if c.closes {
					if err := tun.CloseSend(); err != nil {
						t.Fatal(err)
					}
				}
				for {
					msg, err := tun.Recv()
					if err != nil {
						break
					}
					msg.Free()
				}
				tun.Finish(true)
				if err := <-l.ended; err != nil {
					t.Errorf("the agent's RPC ended with %v", err)
				}
			}
		})
	}
}

// What a caller still does to a call that is over does not reach the next one on the same stream.
func TestAgain_OldCallIsPowerless(t *testing.T) {
	l := newLine(t)
	l.pool(minIdle, echo)
	l.idles()
	old := l.open(l.ctx())
	if err := old.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	old.Finish(true)
	next := l.open(l.ctx())
	if next.stream != old.stream {
		t.Fatal("the stream parked last was not the one taken first")
	}
	old.Abort(errors.New("too late"))
	old.Finish(false)
	if err := old.Send(text("stray")); status.Code(err) != codes.Canceled {
		t.Errorf("a call that is over sends: %v", err)
	}
	if err := old.CloseSend(); status.Code(err) != codes.Canceled {
		t.Errorf("a call that is over half-closes: %v", err)
	}
	if got, err := roundTrip(next, "mine"); err != nil || got != "mine" {
		t.Errorf("the next call: %q, %v", got, err)
	}
	next.Finish(false)
}

// A stream that should end does so after its call, instead of being parked.
func TestAgain_NotWhenTheStreamShouldEnd(t *testing.T) {
	for name, end := range map[string]func(*line){
		"age limit": func(l *line) { l.aged() }, "kas stops": func(l *line) { l.registry.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			l.pool(minIdle, echo)
			l.idles()
			tun := l.open(l.ctx())
			end(l)
			if err := <-l.ended; err != nil { // the other one, so that Connect has seen it
				t.Errorf("the parked stream ended with %v", err)
			}
			eventually(t, "the busy stream is wanted no longer", func() bool {
				s := l.registry.shard(agentID)
				s.mu.Lock()
				defer s.mu.Unlock()
				return tun.stream.unwanted
			})
			if got, err := roundTrip(tun, "still here"); err != nil || got != "still here" {
				t.Errorf("got %q, %v", got, err)
			}
			if err := tun.CloseSend(); err != nil {
				t.Fatal(err)
			}
			if _, err := tun.Recv(); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			tun.Finish(true)
			eventually(t, "the stream has ended", func() bool {
				s := l.registry.shard(agentID)
				s.mu.Lock()
				defer s.mu.Unlock()
				return tun.stream.left
			})
		})
	}
}

// A revoked agent loses streams that have served, too.
func TestAgain_Revoked(t *testing.T) {
	l := newLine(t)
	l.pool(minIdle, echoAhead)
	l.idles()
	if err := l.call(); err != nil {
		t.Fatal(err)
	}
	l.idles()
	l.revoke(fault.New(fault.Unauthenticated, fault.GitLab, "unauthenticated"))
	for range minIdle {
		if err := <-l.ended; status.Code(err) != codes.Unauthenticated {
			t.Errorf("a stream ended with %v", err)
		}
	}
}

// An agent that accepts gets its next call on the stream; what it says in between is a breach that costs the next call, and itself.
func TestAgain_AgentSpokenByHand(t *testing.T) {
	l := newLine(t)
	stream := l.agentStream()
	say(t, stream, rawDescriptor)
	for range 3 {
		tun := l.open(l.ctx())
		if err := tun.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for _, raw := range []string{rawHeader, rawMessage, rawAgain} {
			say(t, stream, raw)
		}
		for _, want := range []string{rawHeader, rawMessage, rawTrailer} { // the offer is between this kas and the agent
			_, msg, err := tun.RecvFrame()
			if err != nil || string(msg.Materialize()) != want {
				t.Fatalf("got %q, %v, want %q", msg.Materialize(), err, want)
			}
		}
		if _, _, err := tun.RecvFrame(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		tun.Finish(true)
	}
	say(t, stream, rawMessage)
	tun := l.open(l.ctx())
	if _, err := tun.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the caller got %v", err)
	}
	tun.Finish(false)
	if err := <-l.ended; status.Code(err) != codes.InvalidArgument {
		t.Errorf("the agent's RPC ended with %v", err)
	}
}

// An agent that accepts and then ends the stream, or does not say that it does and stays, is given no further call on it.
func TestAgain_AgentLeavesAfterAll(t *testing.T) {
	l := newLine(t)
	stream := l.agentStream()
	say(t, stream, rawDescriptor)
	tun := l.open(l.ctx())
	if err := tun.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{rawHeader, rawTrailer} {
		say(t, stream, raw)
	}
	tun.Finish(true)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.registry.Find(short, agentID, wanted); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stream that was not parked again was given away: %v", err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-l.ended; err != nil {
		t.Errorf("the agent's RPC ended with %v", err)
	}
}

// kasSpokenByHand is a kas whose one busy stream a test speaks on. It returns the pool that is connected to it.
func kasSpokenByHand(t *testing.T, h Handler, script func(grpc.ServerStream) error) {
	t.Helper()
	l := &line{t: t}
	first := make(chan struct{}, 1)
	first <- struct{}{}
	spoken := make(chan error, 1)
	l.serve(func(stream grpc.ServerStream) error {
		select {
		case <-first:
			err := script(stream)
			spoken <- err
			return err
		case <-stream.Context().Done():
			return nil
		}
	})
	l.pool(minIdle, h)
	if err := <-spoken; err != nil {
		t.Error(err)
	}
}

// hear receives what an agent has to say next.
func hear(stream grpc.ServerStream, want ...string) error {
	for _, w := range want {
		raw := frame.Raw{}
		if err := stream.RecvMsg(&raw); err != nil {
			return fmt.Errorf("waiting for %q: %w", w, err)
		}
		if got := string(raw.Data.Materialize()); got != w {
			return fmt.Errorf("the agent said %q, want %q", got, w)
		}
	}
	return nil
}

// tell sends what kas says.
func tell(stream grpc.ServerStream, messages ...mem.BufferSlice) error {
	for _, m := range messages {
		if err := stream.SendMsg(&frame.Raw{Data: m}); err != nil {
			return err
		}
	}
	return nil
}

// withoutOffer is a RequestInfo of a stock kas.
func withoutOffer() mem.BufferSlice {
	return mem.BufferSlice{mem.SliceBuffer(mustMarshal(&reversetunnel.ConnectResponse{Msg: &reversetunnel.ConnectResponse_RequestInfo{
		RequestInfo: &reversetunnel.RequestInfo{MethodName: "/" + wanted},
	}}))}
}

// The agent goes on only where that was offered, and ends the stream as a stock agent does everywhere else.
func TestAgain_KasSpokenByHand(t *testing.T) {
	content, closed := func() mem.BufferSlice { return text("\x12\x03\x0a\x01x") }, func() mem.BufferSlice { return frame.Empty(frame.ConnectCloseSend) }
	offer := func() mem.BufferSlice { return requestInfo("/"+wanted, nil, 0) }
	answer := []string{string(headerMessage), rawMessage}
	ends := func(stream grpc.ServerStream) error {
		if err := stream.RecvMsg(&frame.Raw{}); !errors.Is(err, io.EOF) {
			return fmt.Errorf("the agent did not half-close: %w", err)
		}
		return nil
	}
	for name, h := range map[string]Handler{"receiving itself": echo, "ahead": echoAhead} {
		t.Run(name+", a stock kas", func(t *testing.T) {
			kasSpokenByHand(t, h, func(stream grpc.ServerStream) error {
				return cmp.Or(stream.RecvMsg(&frame.Raw{}), tell(stream, withoutOffer(), content(), closed()), hear(stream, append(answer, rawTrailer)...), ends(stream))
			})
		})
		t.Run(name+", two calls and the end", func(t *testing.T) {
			kasSpokenByHand(t, h, func(stream grpc.ServerStream) error {
				return cmp.Or(stream.RecvMsg(&frame.Raw{}),
					tell(stream, offer(), content(), closed()), hear(stream, append(answer, rawAgain)...),
					tell(stream, withoutOffer(), content(), closed()), hear(stream, append(answer, rawTrailer)...), ends(stream))
			})
		})
		t.Run(name+", a call before the other has ended", func(t *testing.T) {
			kasSpokenByHand(t, h, func(stream grpc.ServerStream) error {
				if err := cmp.Or(stream.RecvMsg(&frame.Raw{}), tell(stream, offer(), content(), offer())); err != nil {
					return err
				}
				for {
					raw := frame.Raw{}
					if err := stream.RecvMsg(&raw); err != nil {
						return nil // it has ended the stream, with or without a word
					}
					if said := string(raw.Data.Materialize()); said == rawAgain {
						return errors.New("the agent wants to go on")
					}
				}
			})
		})
	}
}

// An agent that has answered waits for its next call on the stream, while the caller has not read the answer: such streams are none that kas
// could give away, however many there are.
func TestAgain_SlowCallersKeepNobodyWaiting(t *testing.T) {
	l := newLine(t)
	l.pool(100, echoAhead)
	for range 4 * growStep {
		tun := l.open(l.ctx())
		defer tun.Finish(false)
		if err := tun.Send(text("x")); err != nil {
			t.Fatal(err)
		}
		if err := tun.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
}
