package k8sproxy

import "sync"

// inflight counts the requests that are being served, so that a shutdown can wait for them. http.Server does not know about
// connections that were taken over.
type inflight struct {
	mu sync.Mutex
	// mu guards n and idle. idle is closed when n falls to 0; it is nil unless somebody waits.
	n    int
	idle chan struct{}
}

func (i *inflight) enter() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n++
}

func (i *inflight) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n--; i.n == 0 && i.idle != nil {
		close(i.idle)
		i.idle = nil
	}
}

// wait returns a channel that is closed when no request is served.
func (i *inflight) wait() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if i.idle == nil {
		i.idle = make(chan struct{})
	}
	return i.idle
}
