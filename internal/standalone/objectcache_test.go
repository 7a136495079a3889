package standalone

import (
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

func cached(text string, size int) *plumbing.MemoryObject {
	o := &plumbing.MemoryObject{}
	o.SetType(plumbing.BlobObject)
	content := make([]byte, size)
	copy(content, text)
	_, _ = o.Write(content)
	return o
}

func TestObjectCache(t *testing.T) {
	const third = maxCached / 3
	a, b, c, d := cached("a", third), cached("b", third), cached("c", third), cached("d", third)
	var cache objectCache
	check := func(o *plumbing.MemoryObject, want bool) {
		t.Helper()
		got, ok := cache.Get(o.Hash())
		if ok != want || (ok && got != o) {
			t.Errorf("got %v, %t; want %t", got, ok, want)
		}
	}
	check(a, false)
	for _, o := range []*plumbing.MemoryObject{a, b, c, a} {
		cache.Put(o)
	}
	check(c, true)
	check(b, true)
	check(a, true)
	cache.Put(d) // one has to go: the one not used for longest
	check(c, false)
	check(a, true)
	check(b, true)
	check(d, true)
	big := cached("big", maxCached+1)
	cache.Put(big)
	check(big, false)
	check(a, true)
	cache.Put(cached("all", maxCached))
	check(a, false)
	check(d, false)
	if cache.size != maxCached || cache.latest.Len() != 1 || len(cache.elements) != 1 {
		t.Errorf("%d bytes, %d and %d objects", cache.size, cache.latest.Len(), len(cache.elements))
	}
	cache.Clear()
	if cache.size != 0 || cache.latest.Len() != 0 || len(cache.elements) != 0 {
		t.Error("not empty after Clear")
	}
}
