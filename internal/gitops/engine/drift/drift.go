// Package drift finds out whether the cluster still is as it was applied: with one LIST per kind, and at once with a watch. It keeps a
// digest per object, not the object, and never writes.
package drift

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/observe"
)

// key names an object within its kind.
type key struct{ namespace, name string }

// record is what is remembered of an applied object.
type record struct {
	version string // resource version that is known to be right
	sum     Sum
	sent    Sent
}

// Sum condenses something.
type Sum = [sha256.Size]byte

// Sent is what an object was applied from.
type Sent struct {
	// Rendered condenses the object as the repository has it, and the inventory it belongs to.
	Rendered Sum
	// Request condenses the apply as it was sent; zero: it is not known.
	Request Sum
}

// State is what a successful run left in the cluster. It is safe for concurrent use.
type State struct {
	manager string

	mu    sync.Mutex // guards kinds
	kinds map[schema.GroupVersionKind]map[key]record
}

// New returns the State of live objects, as the API server answered when manager applied them.
func New(manager string) *State {
	return &State{manager: manager, kinds: map[schema.GroupVersionKind]map[key]record{}}
}

// Add remembers an object, and what it was applied from.
func (s *State) Add(u *unstructured.Unstructured, sent Sent) {
	sum, _ := digest(u, s.manager)
	s.mu.Lock()
	defer s.mu.Unlock()
	gvk := u.GroupVersionKind()
	if s.kinds[gvk] == nil {
		s.kinds[gvk] = map[key]record{}
	}
	s.kinds[gvk][key{u.GetNamespace(), u.GetName()}] = record{version: u.GetResourceVersion(), sum: sum, sent: sent}
}

// Same says that u, an answer to an apply, is as the object was left. In a dry run the version alone would tell nothing.
func (s *State) Same(u *unstructured.Unstructured) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	r, ours := s.kinds[u.GroupVersionKind()][key{u.GetNamespace(), u.GetName()}]
	s.mu.Unlock()
	if !ours || r.version != u.GetResourceVersion() {
		return false
	}
	sum, _ := digest(u, s.manager)
	return sum == r.sum
}

// Len is the number of objects.
func (s *State) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, objects := range s.kinds {
		n += len(objects)
	}
	return n
}

// place is what one LIST or WATCH covers. Namespace is empty for all of them, and for kinds without.
type place struct {
	kind      schema.GroupVersionKind
	namespace string
}

// namespaces returns the namespaces that objects of a kind are in.
func (s *State) namespaces(kind schema.GroupVersionKind) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for k := range s.kinds[kind] {
		all = append(all, k.namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *State) allKinds() []schema.GroupVersionKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := make([]schema.GroupVersionKind, 0, len(s.kinds))
	for kind := range s.kinds {
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int {
		return slices.Compare([]string{a.String()}, []string{b.String()})
	})
	return kinds
}

// Check lists every kind once and returns the names of the objects that are gone or changed.
func (s *State) Check(ctx context.Context, client *cluster.Client) ([]string, error) {
	var drifted []string
	for _, kind := range s.allKinds() {
		names, err := s.checkKind(ctx, client, kind)
		if err != nil {
			return nil, fmt.Errorf("look for drift of %s: %w", kind.Kind, err)
		}
		drifted = append(drifted, names...)
	}
	return drifted, nil
}

func (s *State) checkKind(ctx context.Context, client *cluster.Client, kind schema.GroupVersionKind) ([]string, error) {
	var drifted []string
	err := s.list(ctx, client, kind, func(p place, items []unstructured.Unstructured) {
		drifted = append(drifted, s.compare(p, items)...)
	})
	return drifted, err
}

// list needs one LIST: of the only namespace, else of all. An account that may not read all of them costs one per namespace.
func (s *State) list(ctx context.Context, client *cluster.Client, kind schema.GroupVersionKind, listed func(place, []unstructured.Unstructured)) error {
	namespaces := s.namespaces(kind)
	if len(namespaces) > 1 {
		err := listPlace(ctx, client, place{kind: kind}, listed)
		if err == nil || !apierrors.IsForbidden(err) {
			return err
		}
	}
	for _, ns := range namespaces {
		if err := listPlace(ctx, client, place{kind, ns}, listed); err != nil {
			return err
		}
	}
	return nil
}

func listPlace(ctx context.Context, client *cluster.Client, p place, listed func(place, []unstructured.Unstructured)) error {
	resource, err := client.Resource(p.kind, p.namespace)
	if meta.IsNoMatchError(err) {
		listed(p, nil)
		return nil
	}
	if err != nil {
		return err
	}
	list, err := resource.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		// The kind's definition was deleted, and its objects with it. The mapper still believes in it.
		client.Mapper.Reset()
		listed(p, nil)
		return nil
	}
	if err != nil {
		return err
	}
	listed(p, list.Items)
	return nil
}

// compare returns what of a complete list is not as it was applied.
func (s *State) compare(p place, items []unstructured.Unstructured) []string {
	s.mu.Lock()
	missing := map[key]bool{}
	for k := range s.kinds[p.kind] {
		if p.namespace == "" || k.namespace == p.namespace {
			missing[k] = true
		}
	}
	s.mu.Unlock()
	var drifted []string
	for i := range items {
		delete(missing, key{items[i].GetNamespace(), items[i].GetName()})
		if s.Drifted(p.kind, &items[i]) {
			drifted = append(drifted, name(p.kind, items[i].GetNamespace(), items[i].GetName()))
		}
	}
	for k := range missing {
		drifted = append(drifted, name(p.kind, k.namespace, k.name))
	}
	slices.Sort(drifted)
	return drifted
}

func name(kind schema.GroupVersionKind, namespace, name string) string {
	if namespace == "" {
		return kind.Kind + " " + name
	}
	return kind.Kind + " " + namespace + "/" + name
}

// Drifted says that u is one of the applied objects and not as it was applied.
func (s *State) Drifted(kind schema.GroupVersionKind, u *unstructured.Unstructured) bool {
	k := key{u.GetNamespace(), u.GetName()}
	s.mu.Lock()
	r, ours := s.kinds[kind][k]
	s.mu.Unlock()
	if !ours || u.GetResourceVersion() == r.version {
		return false
	}
	sum, _ := digest(u, s.manager)
	if sum != r.sum {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if objects, ok := s.kinds[kind]; ok {
		objects[k] = record{version: u.GetResourceVersion(), sum: sum, sent: r.sent}
	}
	return false
}

// Watch calls found (from several goroutines) for every change away from what was applied, until ctx ends. Kinds that the account may
// not watch are skipped: the next Check sees them. The first LIST of each watch finds what changed since the run.
func (s *State) Watch(ctx context.Context, client *cluster.Client, found func(object string)) {
	var wg sync.WaitGroup
	for _, kind := range s.allKinds() {
		for _, ns := range s.namespaces(kind) {
			wg.Go(func() { s.watchPlace(ctx, client, place{kind, ns}, found) })
		}
	}
	wg.Wait()
}

func (s *State) watchPlace(ctx context.Context, client *cluster.Client, p place, found func(string)) {
	resource, err := client.Resource(p.kind, p.namespace)
	if err != nil {
		return
	}
	ours := func(u *unstructured.Unstructured) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, ok := s.kinds[p.kind][key{u.GetNamespace(), u.GetName()}]
		return ok
	}
	_ = observe.Run(ctx, resource, observe.Handler{
		Listed: func(items []unstructured.Unstructured) {
			for _, object := range s.compare(p, items) {
				found(object)
			}
		},
		Changed: func(u *unstructured.Unstructured) {
			if s.Drifted(p.kind, u) {
				found(name(p.kind, u.GetNamespace(), u.GetName()))
			}
		},
		Deleted: func(u *unstructured.Unstructured) {
			if ours(u) {
				found(name(p.kind, u.GetNamespace(), u.GetName()))
			}
		},
	})
}
