package agent

import (
	"bytes"
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/backoff"
)

var fetchPolicy = backoff.Policy{
	Initial:    10 * time.Second,
	Max:        5 * time.Minute,
	Factor:     2,
	Jitter:     1,
	ResetAfter: 10 * time.Minute,
}

// offer is something new at one source of a unit.
type offer struct {
	source int // index in the unit's sources
	// batch is what is new at a repository; its taker reads it, and the watcher closes it.
	batch *batch
	// content is what is new at a URL.
	content []byte
	// verdict gets one value: nil if the offer need not come again.
	verdict chan error
}

// watcher waits for news at one source.
type watcher struct {
	source int
	offers chan<- offer
	failed func(error, time.Duration)
	fetch  fetcher
	values *valuesReader
	timing timing
	policy backoff.Policy
}

// offer hands news to the worker and waits for its verdict, also after ctx has ended: a batch is the worker's until then, which reads it,
// and two must not receive from one stream.
func (w *watcher) offer(ctx context.Context, o offer) error {
	o.source, o.verdict = w.source, make(chan error, 1)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case w.offers <- o:
	}
	return <-o.verdict
}

// repository opens one stream after the other until ctx ends.
func (w *watcher) repository(ctx context.Context, r *repository) {
	retry := backoff.New(w.policy)
	known := ""
	for {
		opened := time.Now()
		commit, err := w.once(ctx, r, known)
		pause := time.Duration(0)
		switch {
		case err == nil && commit != known: // there may be more at once
		case err == nil, errors.Is(err, errNothing):
			pause = max(w.timing.shortest-time.Since(opened), 0)
		case status.Code(err) == codes.Canceled && time.Since(opened) >= w.policy.Initial:
			// A good connection was lost or changed, and the next stream waits for another one.
			pause = max(w.timing.shortest-time.Since(opened), 0)
		default:
			pause = retry.Next()
			if ctx.Err() == nil {
				w.failed(err, pause)
			}
		}
		if err == nil {
			known = commit
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// once waits for one commit and offers it.
func (w *watcher) once(ctx context.Context, r *repository, known string) (string, error) {
	b, err := w.fetch.open(ctx, r, r.paths, r.ref, known)
	if err != nil {
		return "", err
	}
	defer b.close()
	return b.commit, w.offer(ctx, offer{batch: b})
}

// url polls values until ctx ends.
func (w *watcher) url(ctx context.Context, v *valuesURL) {
	retry := backoff.New(w.policy)
	var known []byte
	for {
		pause := v.poll
		content, err := w.values.read(ctx, v)
		if err == nil && (known == nil || !bytes.Equal(content, known)) {
			if err = w.offer(ctx, offer{content: content}); err == nil {
				known = append([]byte{}, content...)
			}
		}
		if err != nil && ctx.Err() == nil {
			pause = max(pause, retry.Next())
			w.failed(err, pause)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// sleep returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
