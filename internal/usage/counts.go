package usage

import (
	"maps"
	"slices"
)

// counts are counters and sets of ids.
type counts struct {
	counters map[string]int64
	unique   map[string]map[int64]struct{}
}

func newCounts() counts {
	return counts{counters: map[string]int64{}, unique: map[string]map[int64]struct{}{}}
}

func (c counts) empty() bool { return len(c.counters) == 0 && len(c.unique) == 0 }

// see puts an id into a set and says how many ids found no room. An id that is not positive is nobody's.
func (c counts) see(name string, id int64, limit int) int {
	if id <= 0 {
		return 0
	}
	set := c.unique[name]
	if set == nil {
		set = map[int64]struct{}{}
		c.unique[name] = set
	}
	return insert(set, id, limit)
}

// add takes in another report.
func (c counts) add(other counts, limit int) int {
	for name, n := range other.counters {
		c.counters[name] += n
	}
	dropped := 0
	for name, set := range other.unique {
		for id := range set {
			dropped += c.see(name, id, limit)
		}
	}
	return dropped
}

// withoutOldNames is a copy of all that has names of today; some says that there was more.
func (c counts) withoutOldNames() (rest counts, some bool) {
	rest = counts{counters: maps.Clone(c.counters), unique: maps.Clone(c.unique)}
	for _, name := range oldNames {
		delete(rest.counters, name)
		delete(rest.unique, name)
	}
	return rest, len(rest.counters) < len(c.counters) || len(rest.unique) < len(c.unique)
}

// lists are the sets as they travel.
func (c counts) lists() map[string][]int64 {
	out := make(map[string][]int64, len(c.unique))
	for name, set := range c.unique {
		out[name] = slices.Sorted(maps.Keys(set))
	}
	return out
}

// insert puts an item into a set and says how many items found no room.
func insert[T comparable](set map[T]struct{}, item T, limit int) int {
	if _, known := set[item]; known {
		return 0
	}
	if len(set) >= limit {
		return 1
	}
	set[item] = struct{}{}
	return 0
}
