package agent

import (
	"context"
	"errors"
	"testing"
	"time"
)

// What was handed over is the worker's until it has said what became of it, whatever ends meanwhile: two must not receive from one stream.
func TestWatcher_OfferIsTheWorkersUntilItsVerdict(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	offers := make(chan offer)
	w := &watcher{source: 3, offers: offers}
	returned := make(chan error, 1)
	go func() { returned <- w.offer(ctx, offer{content: []byte("x")}) }()
	o := <-offers
	if o.source != 3 || string(o.content) != "x" {
		t.Errorf("offered %+v", o)
	}
	cancel()
	select {
	case err := <-returned:
		t.Fatalf("the watcher takes it back: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	verdict := errors.New("verdict")
	o.verdict <- verdict
	if err := <-returned; !errors.Is(err, verdict) {
		t.Errorf("got %v", err)
	}
	if err := w.offer(ctx, offer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an offer that nobody takes: %v", err)
	}
}
