package apply

import (
	"context"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	pollevent "sigs.k8s.io/cli-utils/pkg/kstatus/polling/event"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/cli-utils/pkg/kstatus/watcher"
	"sigs.k8s.io/cli-utils/pkg/object"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/observe"
)

// waiter tells the apply library how far objects are. The library's own watcher lists and watches every kind before anything is applied;
// most objects (ConfigMaps, Roles, an unchanged Deployment) are ready in the answer to the apply, so this one looks at that answer and
// watches only kinds of which something is not ready yet.
type waiter struct {
	client *cluster.Client
	// noWaitApply and noWaitPrune: objects count as ready, or gone, as soon as the API server took the request.
	noWaitApply, noWaitPrune bool

	queue *statusQueue
	wg    sync.WaitGroup // observers

	mu  sync.Mutex // guards all below
	ctx context.Context
	// ids are all objects of the run. What happens to them is passed on also before anybody waits for it: an object may be gone, or
	// ready, before the answer that says it was deleted, or applied, has been looked at.
	ids     map[target]map[object.ObjMetadata]struct{}
	waiting map[target]map[object.ObjMetadata]awaited
}

// target is what one observer follows.
type target struct {
	kind      schema.GroupKind
	namespace string
}

// awaited is an object that is followed.
type awaited struct {
	// last carries uid and generation as the API server answered them.
	last *unstructured.Unstructured
	// end: what is waited for is that the object is gone.
	end bool
}

func newWaiter(client *cluster.Client) *waiter {
	return &waiter{
		client:  client,
		queue:   newStatusQueue(),
		ids:     map[target]map[object.ObjMetadata]struct{}{},
		waiting: map[target]map[object.ObjMetadata]awaited{},
	}
}

// Watch implements the library's StatusWatcher.
func (w *waiter) Watch(ctx context.Context, ids object.ObjMetadataSet, _ watcher.Options) <-chan pollevent.Event {
	w.mu.Lock()
	w.ctx = ctx
	for _, id := range ids {
		t := target{id.GroupKind, id.Namespace}
		if w.ids[t] == nil {
			w.ids[t] = map[object.ObjMetadata]struct{}{}
		}
		w.ids[t][id] = struct{}{}
	}
	w.mu.Unlock()
	out := make(chan pollevent.Event)
	go func() {
		defer close(out)
		defer w.wg.Wait()
		select {
		case out <- pollevent.Event{Type: pollevent.SyncEvent}:
		case <-ctx.Done():
			return
		}
		w.queue.forward(ctx, out)
	}()
	return out
}

// send hands one status to the library.
func (w *waiter) send(id object.ObjMetadata, s status.Status, message string, u *unstructured.Unstructured) {
	w.queue.put(&pollevent.ResourceStatus{Identifier: id, Status: s, Message: message, Resource: u})
}

// compute is the library's notion of how far an object is.
func compute(u *unstructured.Unstructured) (status.Status, string) {
	r, err := status.Compute(u)
	if err != nil {
		return status.UnknownStatus, err.Error()
	}
	return r.Status, r.Message
}

// applied looks at the API server's answer to an apply.
func (w *waiter) applied(id object.ObjMetadata, u *unstructured.Unstructured) {
	s, message := compute(u)
	if s == status.CurrentStatus || w.noWaitApply && !object.IsCRD(u) {
		w.ready(id, message, u)
		return
	}
	w.send(id, s, message, u)
	w.wait(id, u, false)
}

// ready passes on that an object is as it should be. A definition is when the API server also tells of its kind, which comes later.
func (w *waiter) ready(id object.ObjMetadata, message string, u *unstructured.Unstructured) {
	if !object.IsCRD(u) || served(w.client.Mapper, u) {
		w.send(id, status.CurrentStatus, message, u)
		return
	}
	w.send(id, status.InProgressStatus, "the API server does not tell of the kind yet", u)
	w.mu.Lock()
	ctx := w.ctx
	w.mu.Unlock()
	w.wg.Go(func() {
		if waitServed(ctx, w.client.Mapper, u) {
			w.send(id, status.CurrentStatus, message, u)
		}
	})
}

// pruned notes that an object is being deleted.
func (w *waiter) pruned(id object.ObjMetadata, u *unstructured.Unstructured) {
	if w.noWaitPrune {
		w.send(id, status.NotFoundStatus, "", nil)
		return
	}
	w.wait(id, u, true)
}

// wait starts to follow an object.
func (w *waiter) wait(id object.ObjMetadata, u *unstructured.Unstructured, end bool) {
	last := &unstructured.Unstructured{Object: map[string]any{}}
	last.SetGroupVersionKind(u.GroupVersionKind())
	last.SetName(u.GetName())
	last.SetNamespace(u.GetNamespace())
	last.SetUID(u.GetUID())
	last.SetGeneration(u.GetGeneration())
	w.mu.Lock()
	defer w.mu.Unlock()
	t := target{id.GroupKind, id.Namespace}
	ids, followed := w.waiting[t]
	if !followed {
		ids = map[object.ObjMetadata]awaited{}
		w.waiting[t] = ids
	}
	ids[id] = awaited{last: last, end: end}
	if followed || w.ctx == nil || w.ctx.Err() != nil {
		return
	}
	ctx := w.ctx
	w.wg.Go(func() { w.follow(ctx, t, u.GroupVersionKind()) })
}

// follow observes one kind in one namespace until the run ends.
func (w *waiter) follow(ctx context.Context, t target, gvk schema.GroupVersionKind) {
	resource, err := w.client.Resource(gvk, t.namespace)
	if err == nil {
		err = observe.Run(ctx, resource, observe.Handler{
			Listed:  func(items []unstructured.Unstructured) { w.listed(t, items) },
			Changed: func(u *unstructured.Unstructured) { w.changed(t, u) },
			Deleted: func(u *unstructured.Unstructured) { w.gone(t, object.UnstructuredToObjMetadata(u)) },
		})
	}
	if err != nil && ctx.Err() == nil {
		w.giveUp(t, err)
	}
}

func (w *waiter) listed(t target, items []unstructured.Unstructured) {
	seen := make(map[object.ObjMetadata]bool, len(items))
	for i := range items {
		seen[object.UnstructuredToObjMetadata(&items[i])] = true
		w.changed(t, &items[i])
	}
	w.mu.Lock()
	ids := slices.Collect(maps.Keys(w.ids[t]))
	w.mu.Unlock()
	for _, id := range ids {
		if !seen[id] {
			w.gone(t, id)
		}
	}
}

func (w *waiter) follows(t target, id object.ObjMetadata) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.ids[t][id]
	return ok
}

func (w *waiter) changed(t target, u *unstructured.Unstructured) {
	id := object.UnstructuredToObjMetadata(u)
	if !w.follows(t, id) {
		return
	}
	s, message := compute(u)
	if s == status.CurrentStatus {
		w.ready(id, message, u)
		return
	}
	w.send(id, s, message, u)
}

func (w *waiter) gone(t target, id object.ObjMetadata) {
	if w.follows(t, id) {
		w.send(id, status.NotFoundStatus, "", nil)
	}
}

// giveUp lets go of objects that the account may not read: nobody can say how far they are, so they count as done.
func (w *waiter) giveUp(t target, err error) {
	w.mu.Lock()
	ids := w.waiting[t]
	delete(w.waiting, t)
	w.mu.Unlock()
	for id, a := range ids {
		if a.end {
			w.send(id, status.NotFoundStatus, "", nil)
			continue
		}
		w.send(id, status.CurrentStatus, "not readable: "+err.Error(), a.last)
	}
}
