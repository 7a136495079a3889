package drift

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// digest condenses what a field manager has applied to an object: which fields it owns, and their values. Whoever changes one of them
// takes it over, so the set alone tells of most changes; the values tell of those made under the manager's own name. Fields of others (a
// replica count that an autoscaler sets, a status) are not in it. ok is false when the manager owns nothing.
func digest(u *unstructured.Unstructured, manager string) (sum [sha256.Size]byte, ok bool) {
	for _, entry := range u.GetManagedFields() {
		if entry.Manager != manager || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		raw := entry.FieldsV1.GetRawBytes()
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			return sum, false
		}
		h := sha256.New()
		fmt.Fprintf(h, "%s\n", entry.APIVersion)
		walk(h, fields, u.Object)
		return [sha256.Size]byte(h.Sum(nil)), true
	}
	return sum, false
}

// walk writes the fields of a set and their values. The set is a tree: "f:<name>" is a field, "k:<keys>" an item of a list by its keys,
// "v:<value>" an item of a set, "i:<n>" an item by its place, "." the node itself.
func walk(h hash.Hash, fields map[string]any, value any) {
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(h, "%q{", key)
		sub, _ := fields[key].(map[string]any)
		child, found := descend(key, value)
		switch {
		case key == ".":
		case !found:
			h.Write([]byte("absent"))
		case len(sub) == 0:
			writeValue(h, child)
		default:
			walk(h, sub, child)
		}
		h.Write([]byte("}"))
	}
}

// descend finds the value that a key of a field set stands for.
func descend(key string, value any) (any, bool) {
	kind, rest, _ := strings.Cut(key, ":")
	switch kind {
	case "f":
		m, _ := value.(map[string]any)
		child, ok := m[rest]
		return child, ok
	case "k":
		var keys map[string]any
		if json.Unmarshal([]byte(rest), &keys) != nil {
			return nil, false
		}
		list, _ := value.([]any)
		for _, item := range list {
			if m, ok := item.(map[string]any); ok && hasKeys(m, keys) {
				return item, true
			}
		}
	case "v":
		list, _ := value.([]any)
		for _, item := range list {
			if data, err := json.Marshal(item); err == nil && bytes.Equal(data, []byte(rest)) {
				return item, true
			}
		}
	}
	return nil, false
}

// hasKeys compares by JSON: numbers are int64 in objects and float64 in sets.
func hasKeys(item, keys map[string]any) bool {
	for name, want := range keys {
		got, ok := item[name]
		if !ok {
			return false
		}
		a, errA := json.Marshal(got)
		b, errB := json.Marshal(want)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

func writeValue(h hash.Hash, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		data = []byte(err.Error())
	}
	h.Write(data)
}
