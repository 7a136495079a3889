package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"gitlab.com/agentk/agentk/internal/fault"
)

// free is how many bytes of the room nobody has.
func (b *batches) free(limit int64) int64 {
	for n := limit; n > 0; n-- {
		if b.room.TryAcquire(n) {
			b.room.Release(n)
			return n
		}
	}
	return 0
}

func TestBatches_ShareAndFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBatches(100, 250)
		defer b.close()
		loads := 0
		proceed := make(chan struct{})
		load := func(context.Context) (*batch, error) {
			loads++
			<-proceed
			return &batch{size: 30}, nil
		}
		var releases []func()
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				got, release, err := b.get(t.Context(), "k", load)
				if err != nil || got.size != 30 {
					t.Errorf("%v, %v", got, err)
				}
				mu.Lock()
				defer mu.Unlock()
				releases = append(releases, release)
			})
		}
		synctest.Wait()
		if free := b.free(250); free != 150 {
			t.Errorf("%d free while reading", free)
		}
		close(proceed)
		all.Wait()
		for i, release := range releases {
			if free := b.free(250); free != 220 {
				t.Errorf("%d free with %d holders", free, 5-i)
			}
			release()
		}
		if free := b.free(250); free != 250 || loads != 1 || len(b.flying) != 0 {
			t.Errorf("%d free, %d loads, %v", free, loads, b.flying)
		}
	})
}

func TestBatches_NobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBatches(100, 100)
		defer b.close()
		hang := func(ctx context.Context) (*batch, error) { <-ctx.Done(); return nil, ctx.Err() }
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 3 { // one reads, two wait for room
			all.Go(func() {
				if _, _, err := b.get(ctx, fmt.Sprint(i), hang); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		all.Wait()
		synctest.Wait()
		if free := b.free(100); free != 100 || len(b.flying) != 0 {
			t.Errorf("%d free, %v", free, b.flying)
		}
	})
}

func TestBatches_ErrorsAreForThoseWhoWaited(t *testing.T) {
	b := newBatches(100, 100)
	broken := errors.New("broken")
	_, _, err := b.get(t.Context(), "k", func(context.Context) (*batch, error) { return nil, broken })
	if !errors.Is(err, broken) || b.free(100) != 100 {
		t.Errorf("%v, %d free", err, b.free(100))
	}
	got, release, err := b.get(t.Context(), "k", func(context.Context) (*batch, error) { return &batch{}, nil })
	if err != nil || got == nil {
		t.Fatal(err)
	}
	release()
	b.close()
	if _, _, err := b.get(t.Context(), "k", nil); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

func TestBlobCache(t *testing.T) {
	c := newBlobCache(10 * (100 + entryCost))
	put := func(id string) { c.put("r", id, make([]byte, 100)) }
	for i := range 10 {
		put(fmt.Sprint(i))
	}
	if _, ok := c.get("r", "0"); !ok {
		t.Error("the first is gone too soon")
	}
	put("10")
	if _, ok := c.get("r", "1"); ok {
		t.Error("the one used longest ago is still there")
	}
	for _, id := range []string{"0", "2", "10"} {
		if data, ok := c.get("r", id); !ok || len(data) != 100 {
			t.Errorf("%s is gone", id)
		}
	}
	if _, ok := c.get("other", "2"); ok {
		t.Error("another repository's content is given away")
	}
	c.put("r", "huge", make([]byte, 1000))
	c.put("r", "", make([]byte, 1))
	put("10")
	if _, ok := c.get("r", "huge"); ok || c.size != 10*(100+entryCost) || len(c.items) != 10 || c.recent.Len() != 10 {
		t.Errorf("%d bytes, %d items, %d in order", c.size, len(c.items), c.recent.Len())
	}
	if _, ok := c.get("r", ""); ok {
		t.Error("a content without an id")
	}
}
