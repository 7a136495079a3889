package charts

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// Object is one document of a manifest.
type Object map[string]any

// Kind is that of the object.
func (o Object) Kind() string { return (&unstructured.Unstructured{Object: o}).GetKind() }

// Name is that of the object.
func (o Object) Name() string { return (&unstructured.Unstructured{Object: o}).GetName() }

// Namespace is that of the object.
func (o Object) Namespace() string { return (&unstructured.Unstructured{Object: o}).GetNamespace() }

// Text returns the text at a path, or "".
func (o Object) Text(path ...string) string {
	s, _, _ := unstructured.NestedString(o, path...) // something else than text is as good as nothing
	return s
}

// First returns the value at a path that goes through the first entry of every list on its way; nil when there is none.
func (o Object) First(path ...string) any {
	var value any = map[string]any(o)
	for _, key := range path {
		inner, _ := value.(map[string]any)
		value = inner[key]
		if list, ok := value.([]any); ok && len(list) > 0 {
			value = list[0]
		}
	}
	return value
}

// podSpec returns a copy of what the object says about its pods.
func (o Object) podSpec() (map[string]any, bool) {
	path := []string{"spec", "template", "spec"}
	switch o.Kind() {
	case "Pod":
		path = []string{"spec"}
	case "CronJob":
		path = append([]string{"spec", "jobTemplate"}, path...)
	case "Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet":
	default:
		return nil, false
	}
	spec, found, err := unstructured.NestedMap(o, path...)
	return spec, found && err == nil
}

// Objects returns the documents of a manifest.
func Objects(t testing.TB, manifest string) []Object {
	t.Helper()
	decoder := yaml.NewYAMLToJSONDecoder(bytes.NewReader([]byte(manifest)))
	var objects []Object
	for {
		var o Object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(o) > 0 {
			objects = append(objects, o)
		}
	}
}

// Find returns the object of that kind and name, and fails t when there is none.
func Find(t testing.TB, manifest, kind, name string) Object {
	t.Helper()
	for _, o := range Objects(t, manifest) {
		if o.Kind() == kind && o.Name() == name {
			return o
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

func manifestOf(t testing.TB, objects []Object) string {
	t.Helper()
	var b bytes.Buffer
	for _, o := range objects {
		text, err := sigsyaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
		b.Write(text)
	}
	return b.String()
}
