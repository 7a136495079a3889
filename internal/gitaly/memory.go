package gitaly

import (
	"crypto/rand"
	"sync"
	"time"
)

const (
	// wideTime is how long a repository with too many refs is not asked for all of them.
	wideTime = time.Hour
	// unknownTime is how long a server is not asked again for a call that it does not know.
	unknownTime = time.Hour
	// revertTime: a branch that is back at its old commit within this time was probably read from a replica that lags behind.
	revertTime = 10 * time.Second
	// sessionTime is how long Gitaly keeps the processes of a session after each call.
	sessionTime = 10 * time.Second
	// forgetTime is when a repository that nobody asked for is forgotten.
	forgetTime = time.Hour
)

// repoKey names a repository, whoever asks for it.
type repoKey struct{ address, storage, path string }

// memory is what makes the next call cheaper or safer than the first. Losing it costs calls, never an answer.
type memory struct {
	now func() time.Time

	// mu guards what follows.
	mu    sync.Mutex
	repos map[repoKey]*remembered
	// unknown has until when servers are taken not to know a method.
	unknown map[serverMethod]time.Time
}

// serverMethod is a method of the server at an address.
type serverMethod struct{ address, method string }

// Methods that not every server knows.
const (
	listRefsMethod = "ListRefs"
	getBlobsMethod = "GetBlobs"
)

type remembered struct {
	used      time.Time
	wideUntil time.Time
	session   string
	// sessionUsed is when session was last given out.
	sessionUsed time.Time
	refs        map[string]*refHistory
}

// refHistory is the two last commits of a ref; "" is an empty repository.
type refHistory struct {
	current, previous string
	changed           time.Time
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, repos: map[repoKey]*remembered{}, unknown: map[serverMethod]time.Time{}}
}

// repo needs mu.
func (m *memory) repo(key repoKey) *remembered {
	r := m.repos[key]
	if r == nil {
		r = &remembered{refs: map[string]*refHistory{}}
		m.repos[key] = r
	}
	r.used = m.now()
	return r
}

func (m *memory) isWide(key repoKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now().Before(m.repo(key).wideUntil)
}

func (m *memory) setWide(key repoKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repo(key).wideUntil = m.now().Add(wideTime)
}

// session returns the id that binds the calls of one burst on a repository together.
func (m *memory) session(key repoKey) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repo(key)
	if m.now().Sub(r.sessionUsed) >= sessionTime {
		r.session = rand.Text()
	}
	r.sessionUsed = m.now()
	return r.session
}

func (m *memory) knows(address, method string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.now().Before(m.unknown[serverMethod{address, method}])
}

func (m *memory) setUnknown(address, method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unknown[serverMethod{address, method}] = m.now().Add(unknownTime)
}

// doubtful says whether an answer looks like that of a replica that lags behind: the ref or all refs are gone, or the ref is back
// at where it just was. An empty repository that never was anything else is not doubtful: agents poll it for long.
func (m *memory) doubtful(key repoKey, ref string, a answer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.repo(key).refs[ref]
	switch {
	case a.state == missing:
		return true
	case h == nil:
		return false
	case a.state == empty:
		return h.current != ""
	}
	return a.commit == h.previous && a.commit != h.current && m.now().Sub(h.changed) < revertTime
}

// note remembers an answer that is believed.
func (m *memory) note(key repoKey, ref string, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.repo(key)
	h := r.refs[ref]
	switch {
	case a.state == missing:
		delete(r.refs, ref)
	case h == nil:
		r.refs[ref] = &refHistory{current: a.commit}
	case a.commit != h.current:
		h.previous, h.current, h.changed = h.current, a.commit, m.now()
	}
}

func (m *memory) reap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for key, r := range m.repos {
		if now.Sub(r.used) >= forgetTime && !now.Before(r.wideUntil) {
			delete(m.repos, key)
		}
	}
	for what, until := range m.unknown {
		if !now.Before(until) {
			delete(m.unknown, what)
		}
	}
}
