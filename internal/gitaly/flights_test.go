package gitaly

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

// counter is a call that waits for its turn, departs, and takes a while. It returns its number.
type counter struct {
	mu           sync.Mutex
	calls, ended int
	turn, takes  time.Duration
	err          error
}

func (c *counter) call(ctx context.Context, depart func()) (int, error) {
	mine := 0
	for i, pause := range []time.Duration{c.turn, c.takes} {
		if i == 1 {
			depart()
			c.mu.Lock()
			c.calls++
			mine = c.calls
			c.mu.Unlock()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			c.mu.Lock()
			c.ended++
			c.mu.Unlock()
			return 0, ctx.Err()
		}
	}
	return mine, c.err
}

func TestFlights_OneCallForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFlights[int](t.Context()), &counter{turn: time.Second, takes: time.Second}
		var wait sync.WaitGroup
		for range 50 {
			wait.Go(func() {
				if n, err := f.do(t.Context(), "a", c.call); n != 1 || err != nil {
					t.Errorf("got %d, %v", n, err)
				}
			})
		}
		other := &counter{}
		wait.Go(func() { _, _ = f.do(t.Context(), "b", other.call) })
		wait.Wait()
		if c.calls != 1 || other.calls != 1 || len(f.lanes) != 0 {
			t.Errorf("%d calls, %d lanes are left", c.calls, len(f.lanes))
		}
		f.wait()
	})
}

// TestFlights_AnswerIsNotOlderThanQuestion: who asks while a call runs gets the answer of the next, together with all others.
func TestFlights_AnswerIsNotOlderThanQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFlights[int](t.Context()), &counter{takes: time.Second}
		begin := time.Now()
		var wait sync.WaitGroup
		wait.Go(func() { _, _ = f.do(t.Context(), "a", c.call) })
		synctest.Wait()
		for range 50 {
			wait.Go(func() {
				if n, err := f.do(t.Context(), "a", c.call); n != 2 || err != nil {
					t.Errorf("got %d, %v", n, err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		wait.Wait()
		if c.calls != 2 || time.Since(begin) != 2*time.Second || len(f.lanes) != 0 {
			t.Errorf("%d calls in %v, %d lanes are left", c.calls, time.Since(begin), len(f.lanes))
		}
		f.wait()
	})
}

func TestFlights_Leaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := newFlights[int](t.Context()), &counter{turn: time.Minute, takes: time.Minute}
		var wait sync.WaitGroup
		leave := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := f.do(ctx, "a", c.call); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}
		wait.Go(func() { leave(time.Second) })
		wait.Go(func() { leave(90 * time.Second) })
		wait.Go(func() {
			time.Sleep(2 * time.Second)
			if n, err := f.do(t.Context(), "a", c.call); n != 1 || err != nil {
				t.Errorf("who stays gets %d, %v", n, err)
			}
		})
		wait.Wait()
		if c.ended != 0 {
			t.Error("the call was ended while somebody waited")
		}
		leave(time.Second) // alone, before it departs
		leave(70 * time.Second)
		f.wait()
		if c.ended != 2 || len(f.lanes) != 0 {
			t.Errorf("%d calls were ended, wanted both that nobody waited for; %d lanes are left", c.ended, len(f.lanes))
		}
	})
}

func TestFlights_Errors(t *testing.T) {
	f := newFlights[int](t.Context())
	c := &counter{err: errors.New("broken")}
	for want := range 2 {
		if _, err := f.do(t.Context(), "a", c.call); err == nil || c.calls != want+1 {
			t.Errorf("got %v after %d calls: an error is not kept", err, c.calls)
		}
	}
	f.wait()
}

func TestFlights_Closed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, cancel := context.WithCancel(t.Context())
		f, c := newFlights[int](base), &counter{takes: time.Hour}
		var wait sync.WaitGroup
		for range 3 { // one flies, the others wait for the next
			wait.Go(func() {
				if _, err := f.do(t.Context(), "a", c.call); fault.KindOf(err) != fault.Unavailable {
					t.Errorf("got %v", err)
				}
			})
			synctest.Wait()
		}
		cancel()
		f.wait()
		wait.Wait()
		if _, err := f.do(t.Context(), "a", c.call); !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
	})
}
