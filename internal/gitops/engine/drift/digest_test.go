package drift

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const live = `
apiVersion: example.com/v1
kind: Thing
metadata:
  name: x
  managedFields:
  - manager: agentk
    operation: Apply
    apiVersion: example.com/v1
    fieldsType: FieldsV1
    fieldsV1:
      f:spec:
        f:size: {}
        f:whole: {}
        f:ports:
          'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}}
        f:tags:
          'v:"one"': {}
  - manager: other
    operation: Update
    fieldsV1: {f:spec: {f:replicas: {}}}
spec:
  size: 3
  replicas: 1
  whole: {a: {b: [1, 2]}}
  ports:
  - {port: 81, protocol: TCP, name: b}
  - {port: 80, protocol: TCP, name: a, extra: 1}
  tags: [two, one]
`

func parse(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(live))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestDigest(t *testing.T) {
	want, ok := digest(parse(t), "agentk")
	if !ok {
		t.Fatal("no digest")
	}
	spec := func(u *unstructured.Unstructured) map[string]any { return u.Object["spec"].(map[string]any) }
	entry := func(u *unstructured.Unstructured) map[string]any {
		return u.Object["metadata"].(map[string]any)["managedFields"].([]any)[0].(map[string]any)
	}
	for name, c := range map[string]struct {
		change func(u *unstructured.Unstructured)
		same   bool
	}{
		"nothing":           {func(*unstructured.Unstructured) {}, true},
		"other's field":     {func(u *unstructured.Unstructured) { spec(u)["replicas"] = int64(5) }, true},
		"new field":         {func(u *unstructured.Unstructured) { spec(u)["new"] = "x" }, true},
		"other's list item": {func(u *unstructured.Unstructured) { spec(u)["ports"].([]any)[0].(map[string]any)["name"] = "c" }, true},
		"other's part of item": {func(u *unstructured.Unstructured) {
			spec(u)["ports"].([]any)[1].(map[string]any)["extra"] = int64(2)
		}, true},
		"order of a set":  {func(u *unstructured.Unstructured) { spec(u)["tags"] = []any{"one", "two"} }, true},
		"value":           {func(u *unstructured.Unstructured) { spec(u)["size"] = int64(4) }, false},
		"inside of whole": {func(u *unstructured.Unstructured) { spec(u)["whole"] = map[string]any{"a": "c"} }, false},
		"list item":       {func(u *unstructured.Unstructured) { spec(u)["ports"].([]any)[1].(map[string]any)["name"] = "c" }, false},
		"list item gone":  {func(u *unstructured.Unstructured) { spec(u)["ports"] = spec(u)["ports"].([]any)[:1] }, false},
		"member gone":     {func(u *unstructured.Unstructured) { spec(u)["tags"] = []any{"two"} }, false},
		"field taken over": {func(u *unstructured.Unstructured) {
			delete(entry(u)["fieldsV1"].(map[string]any)["f:spec"].(map[string]any), "f:size")
		}, false},
		"other version": {func(u *unstructured.Unstructured) { entry(u)["apiVersion"] = "example.com/v2" }, false},
		"no entry":      {func(u *unstructured.Unstructured) { entry(u)["manager"] = "somebody" }, false},
		"no apply":      {func(u *unstructured.Unstructured) { entry(u)["operation"] = "Update" }, false},
	} {
		u := parse(t)
		c.change(u)
		if got, _ := digest(u, "agentk"); (got == want) != c.same {
			t.Errorf("%s: digest is the same: %v", name, got == want)
		}
	}
}
