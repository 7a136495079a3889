// Package plan turns decoded manifests into what is applied: objects with their namespaces filled in, each known to the API server (or to
// a definition in the same set), named once, and the inventory object set apart. What is wrong is reported with file and line.
package plan

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// Source is where an object was read.
type Source struct {
	File string
	Line int
}

// Object is one to apply.
type Object struct {
	*unstructured.Unstructured
	Source Source
}

// ID names the object in the inventory and in the apply library.
func (o Object) ID() object.ObjMetadata { return object.UnstructuredToObjMetadata(o.Unstructured) }

// Problem says what is wrong with one object.
type Problem struct {
	Source Source
	ID     object.ObjMetadata
	Reason string
	// User: mending it takes another commit.
	User bool
}

// Error is "file:line: object: reason" without the place if it is not known.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Source.File != "" {
		b.WriteString(p.Source.File)
		if p.Source.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Source.Line)
		}
		b.WriteString(": ")
	}
	b.WriteString(Name(p.ID) + ": " + p.Reason)
	return b.String()
}

// Name is how people are told about an object.
func Name(id object.ObjMetadata) string {
	kind := id.GroupKind.Kind
	if kind == "" {
		kind = "object without kind"
	}
	if id.Namespace == "" {
		return kind + " " + id.Name
	}
	return kind + " " + id.Namespace + "/" + id.Name
}

// Plan is a set that can be applied.
type Plan struct {
	Objects []Object
	// Inventory is the repository's own inventory object; nil: none.
	Inventory *Object
	// Problems are the objects that cannot be applied; they are not in Objects.
	Problems Problems
}

// Make resolves objects against the kinds that mapper knows. An error means that the API server could not be asked; what is wrong with
// single objects is in the plan. The objects given are changed.
func Make(objects []Object, mapper meta.ResettableRESTMapper, defaultNamespace string) (Plan, error) {
	var p Plan
	scopes := scopes{mapper: mapper, defined: definedKinds(objects)}
	seen := map[object.ObjMetadata]Source{}
	for i := range objects {
		o := objects[i]
		problem, err := scopes.resolve(o, defaultNamespace)
		if err != nil {
			return Plan{}, err
		}
		id := o.ID()
		if problem == nil {
			if first, twice := seen[id]; twice {
				problem = &Problem{Reason: fmt.Sprintf("is defined before, in %s:%d", first.File, first.Line), User: true}
			}
		}
		if problem != nil {
			problem.Source, problem.ID = o.Source, id
			p.Problems = append(p.Problems, problem)
			continue
		}
		seen[id] = o.Source
		if o.GetLabels()[common.InventoryLabel] == "" {
			p.Objects = append(p.Objects, o)
			continue
		}
		if problem := p.setInventory(o); problem != nil {
			p.Problems = append(p.Problems, problem)
		}
	}
	return p, nil
}

// setInventory notes the repository's own inventory object.
func (p *Plan) setInventory(o Object) *Problem {
	problem := &Problem{Source: o.Source, ID: o.ID(), User: true}
	switch {
	case p.Inventory != nil:
		problem.Reason = fmt.Sprintf("has the label %s, but there is another inventory object in %s:%d; there can be one",
			common.InventoryLabel, p.Inventory.Source.File, p.Inventory.Source.Line)
	case o.GroupVersionKind() != schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}:
		problem.Reason = fmt.Sprintf("has the label %s; only a ConfigMap can be the inventory", common.InventoryLabel)
	default:
		p.Inventory = &o
		return nil
	}
	return problem
}

// scopes knows which kinds have namespaces.
type scopes struct {
	mapper meta.ResettableRESTMapper
	// defined are the kinds that CustomResourceDefinitions of the same set define, and whether they have namespaces.
	defined map[schema.GroupVersionKind]bool
	// reset: the mapper was asked to look again, once.
	reset bool
}

// resolve checks one object and fills in its namespace.
func (s *scopes) resolve(o Object, defaultNamespace string) (*Problem, error) {
	gvk := o.GroupVersionKind()
	switch {
	case gvk.Kind == "" || gvk.Version == "":
		return &Problem{Reason: "apiVersion and kind are required", User: true}, nil
	case o.GetName() == "" && o.GetGenerateName() != "":
		return &Problem{Reason: "generateName cannot be applied; metadata.name is required", User: true}, nil
	case o.GetName() == "":
		return &Problem{Reason: "metadata.name is required", User: true}, nil
	}
	namespaced, known, err := s.lookup(gvk)
	if err != nil {
		return nil, err
	}
	switch {
	case !known:
		return &Problem{Reason: fmt.Sprintf("the Kubernetes API server does not know kind %s of %s", gvk.Kind, gvk.GroupVersion())}, nil
	case namespaced && o.GetNamespace() == "":
		o.SetNamespace(defaultNamespace)
	case !namespaced && o.GetNamespace() != "":
		return &Problem{Reason: "the kind has no namespaces, but metadata.namespace is set", User: true}, nil
	}
	return nil, nil
}

func (s *scopes) lookup(gvk schema.GroupVersionKind) (bool, bool, error) {
	if namespaced, ok := s.defined[gvk]; ok {
		return namespaced, true, nil
	}
	mapping, err := s.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) && !s.reset {
		s.reset = true
		s.mapper.Reset()
		mapping, err = s.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if meta.IsNoMatchError(err) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("kinds of the Kubernetes API server: %w", err)
	}
	return mapping.Scope.Name() == meta.RESTScopeNameNamespace, true, nil
}

// definedKinds reads the CustomResourceDefinitions among objects.
func definedKinds(objects []Object) map[schema.GroupVersionKind]bool {
	kinds := map[schema.GroupVersionKind]bool{}
	for _, o := range objects {
		if !object.IsCRD(o.Unstructured) {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
		for _, v := range versions {
			version, _ := v.(map[string]any)
			name, _ := version["name"].(string)
			kinds[schema.GroupVersionKind{Group: group, Version: name, Kind: kind}] = scope == "Namespaced"
		}
	}
	return kinds
}
