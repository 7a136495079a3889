package manifest

import (
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	// baseNamespace is the namespace of the base, and the beginning of the names of its objects that are in no namespace.
	baseNamespace = "gitlab-agent"
	// appLabel says what it is, whatever its name.
	appLabel = "app.kubernetes.io/name"
)

// names gives objects their names and namespace, wherever these are mentioned.
type names struct {
	objects           []object
	namespace, prefix string
	// known are the names of the objects in the base.
	known map[string]bool
}

func newNames(cfg Config, objects []object) *names {
	n := &names{objects: objects, namespace: cfg.Namespace, prefix: cfg.NamePrefix, known: map[string]bool{}}
	for _, o := range objects {
		if o.kind() != "Namespace" {
			n.known[o.find("metadata", "name").Value] = true
		}
	}
	return n
}

func (n *names) apply() {
	for _, o := range n.objects {
		if o.kind() == "Namespace" {
			o.find("metadata", "name").SetString(n.namespace)
			continue
		}
		n.walk(o.root)
	}
}

// walk renames every value that is the name of an object, and nothing else: the base gives no two things one name.
func (n *names) walk(node *yaml.Node) {
	if node.Kind == yaml.ScalarNode && n.known[node.Value] {
		node.SetString(n.rename(node.Value))
		return
	}
	if node.Kind != yaml.MappingNode {
		for _, child := range node.Content {
			n.walk(child)
		}
		return
	}
	for i := 0; i < len(node.Content); i += 2 {
		switch key, value := node.Content[i].Value, node.Content[i+1]; key {
		case appLabel:
		case "namespace":
			value.SetString(n.namespace)
		default:
			n.walk(value)
		}
	}
}

// rename prefixes a name. Names outside of namespaces also begin with the namespace, so that agents of two namespaces do not share them.
func (n *names) rename(name string) string {
	if rest, ok := strings.CutPrefix(name, baseNamespace+":"); ok {
		return n.namespace + ":" + n.prefix + rest
	}
	return n.prefix + name
}
