package route

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// refusal is why there is no stream for a request, whether Open says so or Recv.
func (r *replica) refusal(q Request) error {
	r.t.Helper()
	call, err := r.router.Open(ctx(r.t), q)
	if err != nil {
		return err
	}
	defer call.Finish(false)
	_, err = call.Recv()
	late, ok := call.(interface{ Unopened() error })
	if !ok || late.Unopened() == nil || !errors.Is(err, late.Unopened()) {
		r.t.Fatalf("%T was opened, and says %v", call, err)
	}
	return err
}

// hops is how often another kas was asked with an outcome.
func hops(t *testing.T, r *replica, outcome string) float64 {
	t.Helper()
	return testutil.ToFloat64(r.router.hops.WithLabelValues(outcome))
}

// located waits until a location of the agent is known.
func (f *fleet) located(n int) {
	f.t.Helper()
	eventually(f.t, "the agent's locations are known", func() bool {
		urls, err := f.store.Tunnels(f.t.Context(), agentID)
		return err == nil && len(urls) == n
	})
}

func TestOpen_AgentOnOtherKas(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, echo)
	f.located(1)
	for range 20 {
		if err := a.whole(); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.store.watches.Load(); got != 1 {
		t.Errorf("%d watches for 20 requests, want 1", got)
	}
	eventually(t, "streams are given back", func() bool { return b.registry.Presence(agentID).Busy == 0 })
	if got := a.registry.Presence(agentID); got.Connected {
		t.Errorf("the agent is here too: %+v", got)
	}
}

// What an agent is told of a request that came through another kas is what it is told otherwise; routing metadata and the
// token between replicas end on the way.
func TestOpen_WhatTheAgentIsTold(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	told := make(chan metadata.MD, 1)
	b.agent(10, func(c context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		told <- md
		return echo(c, md, s)
	}, extension)
	// One for each request: the second one, which nobody receives an answer of, would not be sent again.
	eventually(t, "two streams are parked", func() bool { return b.registry.Presence(agentID).Idle >= 2 })
	q := request()
	q.Require = []string{extension}
	q.Meta = metadata.Pairs("traceparent", "trace", "user-agent", "us", "agentk-own", "x", "kas-hop-own", "y", "authorization", "Bearer secret", "other", "z")
	for range 2 { // the first one asks, the second one is sent without asking
		call, err := a.router.Open(ctx(t), q)
		if err != nil {
			t.Fatal(err)
		}
		if err := call.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var md metadata.MD
		select {
		case md = <-told:
		case <-time.After(patience):
			t.Fatal("the agent is told nothing")
		}
		for name := range md {
			if strings.HasPrefix(name, "kas-hop-") || name == "authorization" || name == "other" || strings.HasPrefix(name, ":") {
				t.Errorf("the agent is told %s: %v", name, md[name])
			}
		}
		if md["traceparent"][0] != "trace" || md["agentk-own"][0] != "x" {
			t.Errorf("the agent is told %v", md)
		}
		call.Finish(false)
	}
	if b.series() != 1 {
		t.Error("the second request did not come in a series")
	}
}

func TestOpen_RequestsThatWaitProceedAtOnce(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	const n = 50
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for range n {
		wg.Go(func() { errs <- a.whole() })
	}
	eventually(t, "the agent is watched", func() bool { return f.store.watches.Load() > 0 })
	began := time.Now()
	b.agent(100, echo)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d requests that waited took %s", n, took)
	}
	if got := f.store.watches.Load(); got != 1 {
		t.Errorf("%d watches for %d requests, want 1", got, n)
	}
}

// A request that waits while nobody holds the agent is served when the agent comes to the very kas that has it.
func TestOpen_AgentComesHereWhileWaitingElsewhere(t *testing.T) {
	f := newFleet(t)
	a := f.start(time.Now())
	done := make(chan error, 1)
	go func() { done <- a.whole() }()
	eventually(t, "the agent is watched", func() bool { return f.store.watches.Load() > 0 })
	a.agent(10, echo)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOpen_AbsentIsAnsweredAtOnceAndCostsTheStoreNothing(t *testing.T) {
	f := newFleet(t)
	a := f.start(time.Now().Add(-time.Hour))
	for range 100 {
		began := time.Now()
		_, err := a.router.Open(ctx(t), request())
		if fault.KindOf(err) != fault.DeadlineExceeded || !strings.HasPrefix(err.Error(), notFound) {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("took %s", took)
		}
	}
	if watches, seen := f.store.watches.Load(), f.store.seen.Load(); watches != 1 || seen != 1 {
		t.Errorf("100 requests asked the store for %d watches and %d times when the agent was seen", watches, seen)
	}
}

func TestOpen_FirstReplicaWithAStreamWins(t *testing.T) {
	f := newFleet(t)
	a, b, c := f.start(time.Now()), f.start(time.Now()), f.start(time.Now())
	hold := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(hold) }) }
	defer release()
	b.agent(2, func(c context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
		select {
		case <-hold:
		case <-c.Done():
		}
		return nil
	})
	f.located(1)
	eventually(t, "both streams are parked", func() bool { return b.registry.Presence(agentID).Idle == 2 })
	var held []Call
	for range 2 {
		call := a.open(ctx(t))
		if err := call.CloseSend(); err != nil {
			t.Fatal(err)
		}
		held = append(held, call)
	}
	eventually(t, "both streams are in use", func() bool { return b.registry.Presence(agentID).Busy == 2 })
	// The only holder is saturated.
	err := a.refusal(request())
	var refused *fault.Error
	if !errors.As(err, &refused) || refused.Kind != fault.ResourceExhausted || refused.RetryAfter == 0 {
		t.Fatalf("got %v", err)
	}
	c.agent(10, echo)
	f.located(2)
	eventually(t, "the new replica serves", func() bool { return a.whole() == nil })
	for _, call := range held {
		call.Finish(false)
	}
	eventually(t, "streams are given back", func() bool {
		return b.registry.Presence(agentID).Busy == 0 && c.registry.Presence(agentID).Busy == 0
	})
}

// Whoever was asked and is not needed any more gives its stream back, unused.
func TestOpen_LosersKeepTheirStreams(t *testing.T) {
	f := newFleet(t)
	a, b, c := f.start(time.Now()), f.start(time.Now()), f.start(time.Now())
	var mu sync.Mutex
	calls := 0
	count := func(cx context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		mu.Lock()
		calls++
		mu.Unlock()
		return echo(cx, md, s)
	}
	b.agent(10, count)
	c.agent(10, count)
	f.located(2)
	const n = 100
	for range n {
		if err := a.whole(); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if calls != n {
		t.Errorf("agents were asked %d times for %d requests", calls, n)
	}
}

func TestOpen_ExtensionIsCheckedAcrossTheHop(t *testing.T) {
	f := newFleet(t)
	a, b, c := f.start(time.Now()), f.start(time.Now()), f.start(time.Now())
	b.agent(10, echo)
	f.located(1)
	q := request()
	q.Require = []string{extension}
	err := a.refusal(q)
	if fault.KindOf(err) != fault.InvalidArgument || fault.HopOf(err) != fault.Agent || !strings.Contains(err.Error(), extension) {
		t.Fatalf("got %v", err)
	}
	if err = b.refusal(q); fault.KindOf(err) != fault.InvalidArgument {
		t.Fatalf("at the kas that holds the agent: %v", err)
	}
	// A newer pod of the agent elsewhere can.
	c.agent(10, echo, extension)
	f.located(2)
	for _, r := range []*replica{a, b, c} {
		call, err := r.router.Open(ctx(t), q)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := roundTrip(call, "y"); got != "y" || err != nil {
			t.Errorf("%q %v", got, err)
		}
		call.Finish(false)
	}
}

// Requests that were sent without asking, and found no stream free, are served whole along another way: nothing of them is lost,
// and nothing happens twice.
func TestOpen_EagerRequestsThatComeTooManyAtOnce(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	var calls atomic.Int64
	b.agent(1000, func(c context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		calls.Add(1)
		return echo(c, md, s)
	})
	if err := a.whole(); err != nil { // the location is warm now
		t.Fatal(err)
	}
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			call, err := a.router.Open(ctx(t), request())
			if err != nil {
				t.Error(err)
				return
			}
			done := false
			defer func() { call.Finish(done) }()
			for part := range 5 { // more than is kept, in the end
				want := strings.Repeat(string(rune('a'+part)), (1+i%4*part)*(20<<10)) + strconv.Itoa(i)
				sent := make(chan error, 1)
				go func() { sent <- call.Send(text(want)) }()
				got, err := call.Recv()
				if err != nil || string(got.Materialize()) != want || <-sent != nil {
					t.Errorf("%d bytes came back, %v", got.Len(), err)
					return
				}
				got.Free()
			}
			if err := call.CloseSend(); err != nil {
				t.Error(err)
				return
			}
			_, err = call.Recv()
			done = errors.Is(err, io.EOF)
			if !done {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := calls.Load(); got != n+1 {
		t.Errorf("the agent was asked %d times for %d requests", got, n+1)
	}
	if busy := hops(t, a, "busy"); busy == 0 {
		t.Error("no eager request came too late: nothing was tested")
	}
}

// A request that was sent without asking to a kas that dies has begun or not, nobody knows: it is not sent again here.
func TestOpen_EagerRequestIsLostWithItsKas(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, func(c context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
		msg, err := s.Recv()
		if err != nil || string(msg.Materialize()) == "stay" {
			<-c.Done()
			return c.Err()
		}
		return s.Send(msg)
	})
	if err := a.whole(); err != nil {
		t.Fatal(err)
	}
	call := a.open(ctx(t))
	if _, ok := call.(*eagerCall); !ok {
		t.Fatalf("%T is not sent without asking", call)
	}
	if err := call.Send(text("stay")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := call.Recv()
		ended <- err
	}()
	eventually(t, "the request has begun", func() bool { return b.registry.Presence(agentID).Busy == 1 })
	b.kill()
	if err := <-ended; !errors.Is(err, httpgrpc.ErrLost) || fault.HopOf(err) != fault.OtherKas {
		t.Errorf("got %v", err)
	}
	call.Finish(false)
}

func TestOpen_OtherKasDiesInTheMiddle(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, echo)
	call := a.open(ctx(t))
	if _, err := roundTrip(call, "x"); err != nil {
		t.Fatal(err)
	}
	b.kill()
	_, err := call.Recv()
	if !errors.Is(err, httpgrpc.ErrLost) || fault.HopOf(err) != fault.OtherKas || !strings.Contains(err.Error(), b.url) || fault.KindOf(err).HTTP() != 502 {
		t.Errorf("got %v", err)
	}
	call.Finish(false)
}

func TestOpen_AgentDiesInTheMiddle(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	begun := make(chan struct{})
	stop := b.agent(10, func(c context.Context, _ metadata.MD, _ httpgrpc.ResponderStream) error {
		close(begun)
		<-c.Done()
		return c.Err()
	})
	call := a.open(ctx(t))
	<-begun
	go stop()
	_, err := call.Recv()
	if err == nil || fault.HopOf(err) == fault.OtherKas {
		t.Errorf("got %v", err)
	}
	call.Finish(false)
}

// The replica that had the agent is gone without a word; its entry is still there when the agent comes back elsewhere.
func TestOpen_DeadReplicaIsPassedOver(t *testing.T) {
	f := newFleet(t)
	a, b, c := f.start(time.Now()), f.start(time.Now()), f.start(time.Now())
	b.kill()
	if err := f.store.AddTunnel(t.Context(), agentID, b.url, time.Minute); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.whole() }()
	eventually(t, "the agent is watched", func() bool { return f.store.watches.Load() > 0 })
	c.agent(10, echo)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := a.whole(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpen_CallerGoesAway_AgentIsCancelled(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	cancelled := make(chan struct{})
	b.agent(10, func(c context.Context, _ metadata.MD, s httpgrpc.ResponderStream) error {
		if err := s.Send(text("begun")); err != nil {
			return err
		}
		s.Ahead()
		<-c.Done() // like a watch that never ends by itself
		close(cancelled)
		return c.Err()
	})
	caller, cancel := context.WithCancel(ctx(t))
	call := a.open(caller)
	if _, err := call.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Fatal("the agent goes on")
	}
	call.Finish(false)
}

func TestOpen_CallerGoesAwayWhileWaiting(t *testing.T) {
	f := newFleet(t)
	a := f.start(time.Now())
	c, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := a.router.Open(c, request())
	if fault.HopOf(err) != fault.Client || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestOpen_ErrorOfTheCall(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, func(context.Context, metadata.MD, httpgrpc.ResponderStream) error {
		return fault.New(fault.Unavailable, fault.APIServer, "connection refused")
	})
	call := a.open(ctx(t))
	_, err := call.Recv()
	if fault.KindOf(err) != fault.Unavailable || errors.Is(err, httpgrpc.ErrLost) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	call.Finish(false)
}
