package redisstore

import (
	"context"
	"testing"
)

// registry is a context that lives on, and counts what waits for its end.
type registry struct {
	context.Context
	waiting map[int]bool
	next    int
}

func (r *registry) Done() <-chan struct{} { return make(chan struct{}) }

// AfterFunc is what package context calls for a context that has it.
func (r *registry) AfterFunc(func()) (stop func() bool) {
	n := r.next
	r.next++
	r.waiting[n] = true
	return func() bool {
		was := r.waiting[n]
		delete(r.waiting, n)
		return was
	}
}

// Whoever subscribes again after each gap leaves nothing behind in a context that goes on.
func TestEvents_GapsLeaveNothingBehind(t *testing.T) {
	e := newEvents("origin", newMetrics(nil))
	ctx := &registry{Context: t.Context(), waiting: map[int]bool{}}
	for range 10 {
		ch := e.channelOf(ctx)
		e.gap()
		if _, open := <-ch; open {
			t.Fatal("the channel is open after a gap")
		}
	}
	if ctx.next != 10 || len(ctx.waiting) != 0 || len(e.subscribers) != 0 {
		t.Errorf("of %d subscriptions %d wait for the end of the context, %d are subscribed", ctx.next, len(ctx.waiting), len(e.subscribers))
	}
}
