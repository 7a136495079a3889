package render

import (
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is a Kubernetes object and where it stands: of rendered ones, the kustomization or the template, and no line.
type Object struct {
	*unstructured.Unstructured
	File string
	Line int
}

// maxLists bounds lists in lists.
const maxLists = 10

// add checks an object and collects it; of a list, every item.
func (d *decoder) add(at place, value map[string]any, lists int) error {
	kind, _ := value["kind"].(string)
	field, hasItems := value["items"]
	items, areItems := field.([]any)
	// What a template leaves empty is null: no items. Only of the plain List that is sure; another kind may have a field of this name.
	if strings.HasSuffix(kind, "List") && (areItems || kind == "List" && hasItems && field == nil) {
		return d.addItems(at, value, items, lists)
	}
	if err := checkObject(at, value); err != nil {
		return err
	}
	if len(d.objects) >= d.limits.Objects {
		return at.mistake("", "with it there are more than %d objects, the limit on objects", d.limits.Objects)
	}
	d.objects = append(d.objects, Object{&unstructured.Unstructured{Object: value}, at.file, at.line})
	return nil
}

// addItems takes a list apart. Items of a typed list need not say their kind, as in the API.
func (d *decoder) addItems(at place, list map[string]any, items []any, lists int) error {
	if lists >= maxLists {
		return at.mistake("", "lists are nested more than %d deep", maxLists)
	}
	kind := strings.TrimSuffix(list["kind"].(string), "List")
	for i, item := range items {
		inner := at.item(i)
		object, ok := item.(map[string]any)
		if !ok {
			return inner.mistake("", "item %d of the list is not an object", i)
		}
		if _, has := object["kind"]; !has && kind != "" {
			object["kind"] = kind
			if _, has := object["apiVersion"]; !has {
				object["apiVersion"] = list["apiVersion"]
			}
		}
		if err := d.add(inner, object, lists+1); err != nil {
			return err
		}
	}
	return nil
}

// checkObject holds what has to be right before an object can be applied, and kept apart from others.
func checkObject(at place, value map[string]any) error {
	kind, kindOK := value["kind"].(string)
	version, versionOK := value["apiVersion"].(string)
	meta, metaOK := value["metadata"].(map[string]any)
	name, nameOK := meta["name"].(string)
	namespace, namespaceOK := meta["namespace"].(string)
	label := describe(kind, namespace, name)
	if strings.HasPrefix(version, "kustomize.config.k8s.io/") {
		return at.mistake(label, "is for kustomize, not for the cluster: name its directory as kustomize in paths, and keep it out of the globs")
	}
	for _, field := range []struct {
		name    string
		present bool
		right   bool
	}{
		{"apiVersion", value["apiVersion"] != nil, versionOK && version != ""},
		{"kind", value["kind"] != nil, kindOK && kind != ""},
		{"metadata", value["metadata"] != nil, metaOK},
	} {
		if !field.present {
			return at.mistake(label, "has no %s", field.name)
		}
		if !field.right {
			return at.mistake(label, "%s is of the wrong type, or empty", field.name)
		}
	}
	if _, err := schema.ParseGroupVersion(version); err != nil {
		return at.mistake(label, "apiVersion %.100q is not <group>/<version>", version)
	}
	if !nameOK || name == "" {
		if meta["generateName"] != nil {
			return at.mistake(label, "has generateName and no name: an object must be found again by its name")
		}
		return at.mistake(label, "has no metadata.name, or one that is not a string")
	}
	if meta["namespace"] != nil && !namespaceOK {
		return at.mistake(label, "metadata.namespace is not a string")
	}
	for _, field := range []string{"labels", "annotations"} {
		if err := checkStrings(meta[field]); err != "" {
			return at.mistake(label, "metadata.%s%s is not a string; quote it", field, err)
		}
	}
	return nil
}

// checkStrings names the entry that is not a string: one such entry makes the Kubernetes libraries blind for all of them. What templates
// leave empty is null, and an API server takes that for an empty string.
func checkStrings(field any) string {
	if field == nil {
		return ""
	}
	entries, ok := field.(map[string]any)
	if !ok {
		return " has no keys, or"
	}
	var wrong []string
	for key, value := range entries {
		if value == nil {
			entries[key] = ""
		} else if _, ok := value.(string); !ok {
			wrong = append(wrong, key)
		}
	}
	if len(wrong) == 0 {
		return ""
	}
	sort.Strings(wrong)
	return "[" + wrong[0] + "]"
}

func describe(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return shorten(strings.TrimSpace(kind + " " + name))
}
