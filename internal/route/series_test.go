package route

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// series is how many streams for requests one after the other have come from other replicas.
func (r *replica) series() float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "grpc_server_started_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetValue() == "Series" {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	r.t.Fatal("series are not counted")
	return 0
}

func TestSeries_RequestsShareAStream(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, echo)
	f.located(1)
	const n = 101
	for range n {
		if err := a.whole(); err != nil {
			t.Fatal(err)
		}
	}
	// More than one where the machine is so slow that tokens expire.
	if got := b.series(); got == 0 || got > n/2 {
		t.Errorf("%v streams for %d requests that need not ask", got, n-1)
	}
	if got := hops(t, a, "served"); got != n {
		t.Errorf("%v of %d hops are counted", got, n)
	}
}

// In a series the end of a request on either side is that of the request only.
func TestSeries_WhatEndsARequest(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	ended := make(chan error, 1)
	b.agent(10, func(c context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		msg, err := s.Recv()
		if err != nil {
			return err
		}
		switch word := string(msg.Materialize()); word {
		case "wait":
			s.Ahead()
			<-c.Done()
			ended <- c.Err()
			return c.Err()
		case "fail":
			return fault.New(fault.Unavailable, fault.APIServer, "connection refused")
		default:
			if err := s.Send(text(word)); err != nil {
				return err
			}
			return echo(c, md, s)
		}
	})
	f.located(1)
	if err := a.whole(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c, leave := context.WithCancel(ctx(t))
		call := a.open(c)
		if err := call.Send(text("wait")); err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			_, err := call.Recv()
			got <- err
		}()
		eventually(t, "the agent is asked", func() bool { return b.registry.Presence(agentID).Busy == 1 })
		leave()
		if err := <-got; err == nil {
			t.Error("the client has left, and has an answer")
		}
		call.Finish(false)
		<-ended

		call = a.open(ctx(t))
		if err := errors.Join(call.Send(text("fail")), call.CloseSend()); err != nil {
			t.Fatal(err)
		}
		if _, err := call.Recv(); fault.KindOf(err) != fault.Unavailable || errors.Is(err, httpgrpc.ErrLost) {
			t.Errorf("got %v", err)
		}
		call.Finish(false)
		for range 3 {
			if err := a.whole(); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "streams are given back", func() bool { return b.registry.Presence(agentID).Busy == 0 })
}

// What comes before the request has ended, and what is larger than what is held, passes both ways at once.
func TestSeries_BothDirectionsAtOnce(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, echo)
	f.located(1)
	for range 5 {
		call := a.open(ctx(t))
		for part := range 10 {
			want := string(make([]byte, part*5<<10)) + "x"
			if got, err := roundTrip(call, want); err != nil || got != want {
				t.Fatalf("part %d: %d bytes, %v", part, len(got), err)
			}
		}
		if err := call.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := call.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		call.Finish(true)
	}
}

// An agent may answer before the request has ended. What comes of that request then is not taken for the next one.
func TestSeries_AnsweredBeforeItsEnd(t *testing.T) {
	f := newFleet(t)
	a, b := f.start(time.Now()), f.start(time.Now())
	b.agent(10, func(c context.Context, md metadata.MD, s httpgrpc.ResponderStream) error {
		msg, err := s.Recv()
		if err != nil || string(msg.Materialize()) == "enough" {
			return err
		}
		return errors.Join(s.Send(msg), echo(c, md, s))
	})
	f.located(1)
	if err := a.whole(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		call := a.open(ctx(t))
		if err := call.Send(text("enough")); err != nil {
			t.Fatal(err)
		}
		if _, err := call.Recv(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		_, _ = call.Send(text("more")), call.CloseSend()
		call.Finish(true)
		if err := a.whole(); err != nil {
			t.Fatal(err)
		}
	}
}
