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
	// never stands for a limit that is not set.
	never = 100 * 365 * 24 * time.Hour
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
	r := rpcOf(ctx)
	if r == nil {
		return ctx
	}
	end := r.pollsEnd
	if end.IsZero() {
		end = time.Now().Add(never)
	}
	limited, cancel := context.WithDeadline(ctx, end)
	stop := func() bool { return true }
	if r.conn != nil && r.conn.polls != nil && !r.late {
		stop = context.AfterFunc(r.conn.polls.ctx, cancel)
	}
	context.AfterFunc(ctx, func() {
		stop()
		cancel()
	})
	return limited
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
