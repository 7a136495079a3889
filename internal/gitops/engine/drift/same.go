package drift

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
)

// fewest is how many objects of a kind make a LIST cheaper than asking for each of them.
const fewest = 3

// Sent returns what an object was applied from; zero: it is not known.
func (s *State) Sent(kind schema.GroupVersionKind, namespace, name string) Sent {
	if s == nil {
		return Sent{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kinds[kind][key{namespace, name}].sent
}

// Recall lists the kinds of which at least a few objects are to be applied as they were before, and passes on the live objects that are
// still as they were left. wanted says how many there are of a kind. It is best effort: what cannot be listed is not passed on. The list
// of one kind is let go of before the next one is read, so found must not keep objects that it does not need.
func (s *State) Recall(ctx context.Context, client *cluster.Client, wanted map[schema.GroupVersionKind]int, found func(u *unstructured.Unstructured, sent Sent)) {
	for _, kind := range s.allKinds() {
		if wanted[kind] < fewest {
			continue
		}
		_ = s.list(ctx, client, kind, func(_ place, items []unstructured.Unstructured) {
			for i := range items {
				u := &items[i]
				sent := s.Sent(kind, u.GetNamespace(), u.GetName())
				if sent.Rendered != (Sum{}) && u.GetDeletionTimestamp() == nil && !s.Drifted(kind, u) {
					found(u, sent)
				}
			}
		}) // the run asks for each object then, and says what is wrong
	}
}
