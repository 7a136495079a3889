package server

import (
	"fmt"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

// A server that says how long it wants to be left alone is, though not for longer than until the next poll.
func TestConfiguration_BusyServerIsLeftAlone(t *testing.T) {
	for told, want := range map[time.Duration]time.Duration{time.Second: 10 * time.Second, 2 * time.Minute: 2 * time.Minute, 24 * time.Hour: pollPeriod} {
		inBubble(t, func(t *testing.T, f *fixture) {
			busy := &fault.Error{Kind: fault.Unavailable, Hop: fault.Git, Msg: "too much to do", RetryAfter: told}
			f.commit("c1", "")
			f.set(func(w *world) { w.headErr = fmt.Errorf("look: %w", busy) })
			s := f.open(t, modern)
			s.silent(t, want-time.Second)
			f.set(func(w *world) {
				if w.checks != 1 {
					t.Errorf("told %v: %d attempts in %v", told, w.checks, want)
				}
				w.headErr = nil
			})
			if r := s.wantCommit(t, "c1"); r.at > 2*want {
				t.Errorf("told %v: noticed after %v", told, r.at)
			}
		})
	}
}
