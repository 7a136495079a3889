package server

import (
	"container/list"
	"sync"
)

const (
	// entryCost is what an entry takes besides its content, in bytes.
	entryCost = 300
	// largestShare: a file that takes more than this part of the cache is not remembered, it would push out too much.
	largestShare = 8
)

// blobKey names a content: the same id in the same repository is the same content for ever.
type blobKey struct{ repository, id string }

// blobCache remembers the contents that were used last, so that a new commit costs only what it changed.
type blobCache struct {
	limit int64

	// mu guards what follows.
	mu    sync.Mutex
	size  int64
	items map[blobKey]*list.Element
	// recent has the one used last in front.
	recent *list.List
}

type blobItem struct {
	key  blobKey
	data []byte
}

func newBlobCache(limit int64) *blobCache {
	return &blobCache{limit: limit, items: map[blobKey]*list.Element{}, recent: list.New()}
}

func (c *blobCache) get(repository, id string) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.items[blobKey{repository, id}]
	if id == "" || element == nil {
		return nil, false
	}
	c.recent.MoveToFront(element)
	return element.Value.(blobItem).data, true
}

func (c *blobCache) put(repository, id string, data []byte) {
	key := blobKey{repository, id}
	cost := int64(len(data)) + entryCost
	if id == "" || cost > c.limit/largestShare {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[key] != nil {
		return
	}
	c.items[key] = c.recent.PushFront(blobItem{key: key, data: data})
	for c.size += cost; c.size > c.limit; {
		oldest := c.recent.Back()
		item := c.recent.Remove(oldest).(blobItem)
		delete(c.items, item.key)
		c.size -= int64(len(item.data)) + entryCost
	}
}
