package standalone

import (
	"container/list"

	"github.com/go-git/go-git/v5/plumbing"
)

// maxCached is how many bytes of objects one open repository keeps.
const maxCached = 1 << 20

// objectCache keeps the objects used last. The library's own makes room for 1 000 of them, 100 KB, for each repository that is opened,
// while a configuration takes four: the garbage of thousands of agents that arrive together would stay in the heap as holes. It belongs
// to one goroutine, like the repository.
type objectCache struct {
	elements map[plumbing.Hash]*list.Element // of plumbing.EncodedObject
	latest   list.List                       // used last in front
	size     int64
}

// Put implements cache.Object.
func (c *objectCache) Put(o plumbing.EncodedObject) {
	size := o.Size()
	if size > maxCached {
		return
	}
	c.drop(c.elements[o.Hash()])
	for c.size+size > maxCached {
		c.drop(c.latest.Back())
	}
	if c.elements == nil {
		c.elements = make(map[plumbing.Hash]*list.Element)
	}
	c.elements[o.Hash()] = c.latest.PushFront(o)
	c.size += size
}

// Get implements cache.Object.
func (c *objectCache) Get(id plumbing.Hash) (plumbing.EncodedObject, bool) {
	e := c.elements[id]
	if e == nil {
		return nil, false
	}
	c.latest.MoveToFront(e)
	return e.Value.(plumbing.EncodedObject), true
}

// Clear implements cache.Object.
func (c *objectCache) Clear() { *c = objectCache{} }

// drop takes an element out; nil is none.
func (c *objectCache) drop(e *list.Element) {
	if e == nil {
		return
	}
	o := c.latest.Remove(e).(plumbing.EncodedObject)
	delete(c.elements, o.Hash())
	c.size -= o.Size()
}
