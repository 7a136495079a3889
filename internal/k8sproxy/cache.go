package k8sproxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

// sweep is how many entries are looked at for expiry with every new one, so that old ones do not stay for ever.
const sweep = 4

// cacheKey is the SHA-256 of a credential: the cache holds no secret.
type cacheKey [32]byte

type cacheLimits struct {
	ttl, errorTTL time.Duration
	entries       int
	now           func() time.Time
}

// cache remembers answers of the outside world and lets one request per key ask at a time.
type cache[T any] struct {
	cacheLimits

	mu sync.Mutex
	// mu guards items. clear replaces the map, so that an answer fetched before the change is not kept after it.
	items map[cacheKey]*cacheItem[T]
}

// cacheItem is an answer, or a fetch in progress until ready is closed; the other fields are set before that.
type cacheItem[T any] struct {
	ready   chan struct{}
	value   T
	err     error
	expires time.Time
}

func newCache[T any](limits cacheLimits) *cache[T] {
	return &cache[T]{cacheLimits: limits, items: map[cacheKey]*cacheItem[T]{}}
}

// get returns the answer for key. The context of the one who asks bounds the fetch; if that one gives up, another waiting one
// asks again.
func (c *cache[T]) get(ctx context.Context, key cacheKey, fetch func(context.Context) (T, error)) (T, error) {
	if c.ttl == 0 {
		return fetch(ctx)
	}
	for {
		item, mine, items := c.claim(key)
		if mine {
			return c.fill(ctx, key, item, items, fetch)
		}
		select {
		case <-item.ready:
		case <-ctx.Done():
			var none T
			return none, context.Cause(ctx)
		}
		if !errors.Is(item.err, errGivenUp) {
			return item.value, item.err
		}
	}
}

var errGivenUp = errors.New("the request that asked was ended")

// claim returns the item of key, or a new one that the caller has to fill.
func (c *cache[T]) claim(key cacheKey) (*cacheItem[T], bool, map[cacheKey]*cacheItem[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if item := c.items[key]; item != nil && !c.expired(item) {
		return item, false, nil
	}
	c.makeRoom()
	item := &cacheItem[T]{ready: make(chan struct{})}
	c.items[key] = item
	return item, true, c.items
}

func (c *cache[T]) fill(ctx context.Context, key cacheKey, item *cacheItem[T], items map[cacheKey]*cacheItem[T], fetch func(context.Context) (T, error)) (T, error) {
	keep := false
	item.err = errGivenUp // what waiters see if fetch panics
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !keep && items[key] == item {
			delete(items, key)
		}
		close(item.ready)
	}()
	value, err := fetch(ctx)
	ttl := c.ttl
	switch {
	case err == nil:
		keep = true
	case ctx.Err() != nil:
		return value, err
	default:
		ttl = c.errorTTL
		keep = ttl > 0 && refused(err)
	}
	item.value, item.err, item.expires = value, err, c.now().Add(ttl)
	return value, err
}

// refused says that the outside world has answered no, as opposed to not answered.
func refused(err error) bool {
	switch fault.KindOf(err) {
	case fault.Unauthenticated, fault.PermissionDenied, fault.NotFound:
		return true
	default:
		return false
	}
}

// expired says that an item is an answer that is too old. A fetch in progress is not.
func (c *cache[T]) expired(item *cacheItem[T]) bool {
	select {
	case <-item.ready:
		return !c.now().Before(item.expires)
	default:
		return false
	}
}

// makeRoom drops some expired answers and, when the cache is full, an arbitrary answer.
func (c *cache[T]) makeRoom() {
	looked, full := 0, len(c.items) >= c.entries
	for key, item := range c.items {
		if c.expired(item) {
			delete(c.items, key)
			full = false
		}
		if looked++; looked >= sweep {
			if full {
				delete(c.items, key)
			}
			return
		}
	}
}

func (c *cache[T]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items = map[cacheKey]*cacheItem[T]{}
}
