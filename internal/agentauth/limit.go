package agentauth

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// window is what connections are counted in.
	window = time.Minute
	// storeTimeout bounds how long a slow store may hold up an agent's first RPC.
	storeTimeout = 2 * time.Second
	// maxLocalKeys bounds the counting in process.
	maxLocalKeys = 100_000
)

var errTooMany = status.Error(codes.ResourceExhausted, "new connection rate limit exhausted for this agent, try again later")

// count is the verdict about one token on one connection. Others wait for the RPC that fetches it.
type count struct {
	known   chan struct{} // closed when the verdict is there
	allowed bool
	until   time.Time // a refusal holds until the window ends
}

// admit counts the connection of an RPC, once per token. A refused connection may try again in the next window.
func (a *Authenticator) admit(ctx context.Context, r *rpc) error {
	if a.cfg.ConnectionsPerMinute == 0 || r.conn == nil {
		return nil
	}
	verdict, mine := r.conn.countOf(r.key)
	if mine {
		verdict.allowed = a.allow(ctx, r.token)
		verdict.until = time.Now().Truncate(window).Add(window)
		close(verdict.known)
		if !verdict.allowed {
			a.rateExceeded.Inc()
		}
	}
	select {
	case <-verdict.known:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	if !verdict.allowed {
		return errTooMany
	}
	return nil
}

// countOf finds the verdict of a token; mine means that the caller has to fetch it.
func (c *connection) countOf(key tokenKey) (verdict *count, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	verdict = c.counted.of(key)
	if verdict != nil {
		select {
		case <-verdict.known:
			if verdict.allowed || time.Now().Before(verdict.until) {
				return verdict, false
			}
		default:
			return verdict, false
		}
	}
	verdict = &count{known: make(chan struct{})}
	c.counted.set(key, verdict)
	return verdict, true
}

// counts are the verdicts of one connection. Nearly all have one token, which needs no map.
type counts struct {
	first tokenKey
	about *count // the first token; nil: there was none
	more  map[tokenKey]*count
}

func (c *counts) of(key tokenKey) *count {
	if c.about != nil && c.first == key {
		return c.about
	}
	return c.more[key]
}

func (c *counts) set(key tokenKey, verdict *count) {
	if c.about == nil || c.first == key {
		c.first, c.about = key, verdict
		return
	}
	if len(c.more) >= maxTokens-1 {
		for k := range c.more { // any: it will be counted again
			delete(c.more, k)
			break
		}
	}
	if c.more == nil {
		c.more = make(map[tokenKey]*count)
	}
	c.more[key] = verdict
}

// allow asks the store; when the store has no answer, kas goes on counting by itself rather than refuse its agents.
func (a *Authenticator) allow(ctx context.Context, token string) bool {
	key := limitKey(token)
	if a.cfg.Limiter != nil {
		// The verdict is for the connection: the end of this RPC must not spoil it.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		ok, err := a.cfg.Limiter.Allow(bounded, key, a.cfg.ConnectionsPerMinute, window)
		if err == nil {
			return ok
		}
		a.cfg.Log.Warn("Cannot count connections in the store, counting in this process", zap.Error(err))
	}
	return a.local.allow(key, a.cfg.ConnectionsPerMinute, time.Now())
}

// localLimiter counts in this process.
type localLimiter struct {
	// mu guards the counts of the window that began at start.
	mu    sync.Mutex
	start time.Time
	seen  map[string]uint32
}

func newLocalLimiter() *localLimiter { return &localLimiter{seen: make(map[string]uint32)} }

func (l *localLimiter) allow(key string, limit uint32, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if start := now.Truncate(window); !start.Equal(l.start) {
		l.start = start
		clear(l.seen)
	}
	n, known := l.seen[key]
	if n >= limit {
		return false
	}
	if known || len(l.seen) < maxLocalKeys {
		l.seen[key] = n + 1
	}
	return true
}
