package apply

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/object"

	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// made are the namespaces and kinds that a set makes itself. A dry run does not make them, so it cannot try what is inside.
type made struct {
	namespaces map[string]bool
	kinds      map[schema.GroupKind]bool
}

func madeBy(objects []plan.Object) made {
	m := made{namespaces: map[string]bool{}, kinds: map[schema.GroupKind]bool{}}
	for _, o := range objects {
		if object.IsNamespace(o.Unstructured) {
			m.namespaces[o.GetName()] = true
		}
		if kind, ok := object.GetCRDGroupKind(o.Unstructured); ok && object.IsCRD(o.Unstructured) {
			m.kinds[kind] = true
		}
	}
	return m
}

// holds says that the set makes an object's namespace or kind.
func (m made) holds(id object.ObjMetadata) bool {
	return m.namespaces[id.Namespace] || m.kinds[id.GroupKind]
}
