package agentauth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// store is a Limiter that counts, or fails.
type store struct {
	mu    sync.Mutex
	calls map[string]uint32
	err   error
}

func (s *store) Allow(_ context.Context, key string, limit uint32, window time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = make(map[string]uint32)
	}
	s.calls[key]++
	if window != time.Minute {
		return false, fmt.Errorf("window %v", window)
	}
	return s.calls[key] <= limit, s.err
}

func TestRateLimit_CountsConnectionsNotRPCs(t *testing.T) {
	counter := &store{}
	a := newAuth(t, newAgents(), func(cfg *Config) { cfg.Limiter, cfg.ConnectionsPerMinute = counter, 2 })
	addr := serve(t, a, handlers{unary: echo})
	for i := range 3 {
		conn := connect(t, addr)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				_, err := call(t, conn, "", "Bearer good")
				if i < 2 && err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				if i == 2 && (status.Code(err) != codes.ResourceExhausted ||
					status.Convert(err).Message() != "new connection rate limit exhausted for this agent, try again later") {
					t.Errorf("connection %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	}
	half := sha256.Sum256([]byte("go"))
	if n := counter.calls[hex.EncodeToString(half[:])]; n != 3 || len(counter.calls) != 1 {
		t.Errorf("the store was asked for %v, want 3 times for the hash of half the token", counter.calls)
	}
	if got := testutil.ToFloat64(a.rateExceeded); got != 1 {
		t.Errorf("metric %v, want 1", got)
	}
	// Another token is not affected.
	if _, err := call(t, connect(t, addr), "", "Bearer xx"); err != nil {
		t.Error(err)
	}
}

func TestRateLimit_StoreFails(t *testing.T) {
	a := newAuth(t, newAgents(), func(cfg *Config) {
		cfg.Limiter, cfg.ConnectionsPerMinute = &store{err: errors.New("store is down")}, 2
	})
	addr := serve(t, a, handlers{unary: echo})
	refused := 0
	for range 6 { // a minute may begin in between
		if _, err := call(t, connect(t, addr), "", "Bearer good"); err != nil {
			refused++
		}
	}
	if refused < 2 || refused > 4 {
		t.Errorf("%d of 6 connections refused with a limit of 2", refused)
	}
}

func TestLocalLimiter_Windows(t *testing.T) {
	l := newLocalLimiter()
	start := time.Unix(0, 0)
	for i, want := range []bool{true, true, false} {
		if got := l.allow("k", 2, start.Add(time.Duration(i)*time.Second)); got != want {
			t.Errorf("call %d: %v", i, got)
		}
	}
	if !l.allow("k", 2, start.Add(time.Minute)) {
		t.Error("the next window does not start anew")
	}
}

func TestCountOf_RefusalEndsAndTokensAreBounded(t *testing.T) {
	c := newConnection(nil)
	for i := range 2 * maxTokens {
		verdict, mine := c.countOf(keyOf(fmt.Sprint(i)))
		if !mine {
			t.Fatal("a new token has a verdict")
		}
		verdict.until = time.Now().Add(time.Hour)
		close(verdict.known)
	}
	if n := len(c.counted.more) + 1; n > maxTokens {
		t.Errorf("%d tokens remembered", n)
	}
	for _, known := range []int{0, 2*maxTokens - 1} { // the first, and one of the others
		if _, mine := c.countOf(keyOf(fmt.Sprint(known))); mine {
			t.Errorf("token %d is counted again", known)
		}
	}
	key := keyOf("again")
	verdict, _ := c.countOf(key)
	verdict.until = time.Now().Add(-time.Second)
	close(verdict.known)
	if _, mine := c.countOf(key); !mine {
		t.Error("a refusal outlives its window")
	}
}
