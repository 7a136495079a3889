package apply

import (
	"context"
	"sync"

	pollevent "sigs.k8s.io/cli-utils/pkg/kstatus/polling/event"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// statusQueue stands between those who learn statuses and the library, which takes them and sends events in one loop: who waited for it
// while it waits for its events to be taken would wait forever. It holds the newest status of each object, so it is bounded.
type statusQueue struct {
	wake chan struct{} // holds one token when something is queued

	mu     sync.Mutex // guards all below
	order  []object.ObjMetadata
	newest map[object.ObjMetadata]*pollevent.ResourceStatus
}

func newStatusQueue() *statusQueue {
	return &statusQueue{wake: make(chan struct{}, 1), newest: map[object.ObjMetadata]*pollevent.ResourceStatus{}}
}

func (q *statusQueue) put(s *pollevent.ResourceStatus) {
	q.mu.Lock()
	if _, queued := q.newest[s.Identifier]; !queued {
		q.order = append(q.order, s.Identifier)
	}
	q.newest[s.Identifier] = s
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *statusQueue) take() *pollevent.ResourceStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return nil
	}
	id := q.order[0]
	q.order = q.order[1:]
	s := q.newest[id]
	delete(q.newest, id)
	return s
}

// forward hands statuses on until ctx ends.
func (q *statusQueue) forward(ctx context.Context, out chan<- pollevent.Event) {
	for {
		s := q.take()
		if s == nil {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			continue
		}
		select {
		case out <- pollevent.Event{Type: pollevent.ResourceUpdateEvent, Resource: s}:
		case <-ctx.Done():
			return
		}
	}
}
