package agentauth

import (
	"context"
	"time"
)

const (
	// pollShare is the part of the maximum connection age after which long polls end. It is later than the GOAWAY, so that
	// the agent's next call opens a new connection.
	pollShare = 0.30
	// pollJitter is the part of the remaining time that is added at random, so that polls of one connection do not all end at once.
	pollJitter = 0.05
	// latePoll is how long polls last that begin after Polls.End: agents come back at once after a poll that ended well, and
	// would spin until the GOAWAY reaches them.
	latePoll = time.Second
)

// Polls ends the long polls of the connections that Credentials gave it. A nil one never does.
type Polls struct {
	ctx context.Context //nolint:containedctx // it is the lifetime of others' contexts, not of a call
	end context.CancelFunc
}

// NewPolls returns one whose polls go on.
func NewPolls() *Polls {
	p := &Polls{}
	p.ctx, p.end = context.WithCancel(context.Background())
	return p
}

// End ends every context of AgeLimit on these connections, now and later: they are to move.
func (p *Polls) End() { p.end() }

func (p *Polls) ended() bool { return p != nil && p.ctx.Err() != nil }

// AgeLimit returns a context that ends when a long poll of this RPC shall finish with status OK: at the RPC's share of the
// maximum connection age or at Polls.End; also, with its parent, when the RPC ends. The parent tells the two apart: it is
// still alive when the limit was reached.
func AgeLimit(ctx context.Context) context.Context {
	limited, end := AgeLimited(ctx)
	context.AfterFunc(ctx, end)
	return limited
}

// AgeLimited is AgeLimit for a handler that says itself when it needs the limit no more: it must call the returned function, at the
// latest when it returns.
func AgeLimited(ctx context.Context) (context.Context, func()) {
	r := rpcOf(ctx)
	if r == nil {
		return ctx, func() {}
	}
	var limited context.Context
	var cancel context.CancelFunc
	if r.pollsEnd.IsZero() {
		limited, cancel = context.WithCancel(ctx)
	} else {
		limited, cancel = context.WithDeadline(ctx, r.pollsEnd)
	}
	// The channel is made here and now: who waits for it does so on a small stack.
	limited.Done()
	if r.conn == nil || r.conn.polls == nil || r.late {
		return limited, cancel
	}
	stop := context.AfterFunc(r.conn.polls.ctx, cancel)
	return limited, func() {
		stop()
		cancel()
	}
}

// pollsEnd is when long polls of an RPC that starts now shall end; the zero time means never.
func (a *Authenticator) pollsEnd(connected, now time.Time) time.Time {
	if a.cfg.MaxConnectionAge <= 0 {
		return time.Time{}
	}
	end := connected.Add(time.Duration(pollShare * float64(a.cfg.MaxConnectionAge)))
	left := end.Sub(now)
	if left <= 0 {
		return end
	}
	return end.Add(time.Duration(a.cfg.Rand() * pollJitter * float64(left)))
}
