package standalone

import (
	"context"
	"time"
)

// maxExpiryWait bounds the effect of a clock that is set while a timer runs.
const maxExpiryWait = time.Minute

// watchExpiry makes the expiry of a job's token a change, so that answers which others keep end with it.
func (b *Backend) watchExpiry(ctx context.Context) {
	since := b.cfg.Now()
	for {
		changed := b.Changed()
		timer := time.NewTimer(b.section.Load().untilExpiry(since, maxExpiryWait))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
			now := b.cfg.Now()
			if b.section.Load().expiredBetween(since, now) {
				b.changed.fire()
			}
			since = now
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// untilExpiry is the time from now to the next expiry of a job, at most limit.
func (s *section) untilExpiry(now time.Time, limit time.Duration) time.Duration {
	for _, j := range s.jobs {
		if at, ok := j.expiry(); ok && at.After(now) {
			limit = min(limit, at.Sub(now))
		}
	}
	return limit
}

// expiredBetween tells whether a job expired after from and not after to.
func (s *section) expiredBetween(from, to time.Time) bool {
	for _, j := range s.jobs {
		if at, ok := j.expiry(); ok && at.After(from) && !at.After(to) {
			return true
		}
	}
	return false
}
