package apply

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// servedPause is how often the API server is asked about a new kind: it tells of one within a second or so of accepting its definition.
const servedPause = 100 * time.Millisecond

// served says that the mapper knows every version that a definition serves.
func served(mapper meta.RESTMapper, crd *unstructured.Unstructured) bool {
	kind, ok := object.GetCRDGroupKind(crd)
	if !ok {
		return true
	}
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		version, _ := v.(map[string]any)
		name, _ := version["name"].(string)
		if on, _ := version["served"].(bool); !on {
			continue
		}
		if _, err := mapper.RESTMapping(kind, name); err != nil {
			return false
		}
	}
	return true
}

// waitServed asks until the mapper knows; false: ctx ended.
func waitServed(ctx context.Context, mapper meta.ResettableRESTMapper, crd *unstructured.Unstructured) bool {
	t := time.NewTicker(servedPause)
	defer t.Stop()
	for {
		mapper.Reset()
		if served(mapper, crd) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}
