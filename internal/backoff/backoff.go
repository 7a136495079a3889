// Package backoff says how long to wait before the next attempt, so that every retry loop of both daemons follows the same rule
// and a test can read its numbers in one place.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Policy is how the delays of one loop grow. The zero Jitter means exact delays.
type Policy struct {
	// Initial is the first delay and Max the largest one, both before jitter.
	Initial, Max time.Duration
	// Factor is what each delay is multiplied with to get the next.
	Factor float64
	// Jitter makes a delay d a random one of [d, d + Jitter*d), so that peers that failed together do not return together.
	Jitter float64
	// ResetAfter is how long after the last failure the delays start from Initial again.
	ResetAfter time.Duration
}

// Backoff counts the failures of one loop. It is not safe for concurrent use.
type Backoff struct {
	policy Policy
	next   time.Duration
	last   time.Time
}

// New returns a Backoff that has seen no failure.
func New(p Policy) *Backoff { return &Backoff{policy: p} }

// Next notes a failure and returns the delay before the next attempt.
func (b *Backoff) Next() time.Duration {
	now := time.Now()
	if b.next == 0 || now.Sub(b.last) >= b.policy.ResetAfter {
		b.next = b.policy.Initial
	}
	delay := b.next
	b.next = min(time.Duration(float64(b.next)*b.policy.Factor), b.policy.Max)
	b.last = now.Add(delay)
	if b.policy.Jitter > 0 {
		delay += time.Duration(rand.Float64() * b.policy.Jitter * float64(delay))
	}
	return delay
}

// Reset forgets all failures.
func (b *Backoff) Reset() { b.next = 0 }
