package jwtauth

import (
	"bytes"
	"crypto/sha256"
	"sync"
	"time"
)

// maxRemembered bounds the tokens that are remembered. Other replicas have one each at a time; Rails has one for every call.
const maxRemembered = 64

// remembered are tokens that were found good, until they expire: callers that use theirs many times a second are not checked from the
// beginning each time. They are known by their SHA-256, so that no token is kept.
type remembered struct {
	mu sync.Mutex
	// mu guards the fields below. until says when the tokens that key has signed expire.
	key   []byte
	until map[[sha256.Size]byte]time.Time
}

// has says that a token was found good under the same key and has not expired.
func (r *remembered) has(id [sha256.Size]byte, key []byte, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[id]
	return ok && bytes.Equal(key, r.key) && now.Before(until)
}

func (r *remembered) add(id [sha256.Size]byte, key []byte, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil || len(r.until) >= maxRemembered || !bytes.Equal(key, r.key) {
		r.key, r.until = bytes.Clone(key), map[[sha256.Size]byte]time.Time{}
	}
	r.until[id] = until
}
