package cluster

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

const where = "/api/v1/namespaces/ns/configmaps/a"

func apply(t *testing.T, query, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, "https://server"+where+"?"+query, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", string(types.ApplyPatchType))
	return req
}

func live(size int) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"data": strings.Repeat("x", size)}}
}

func TestKnown(t *testing.T) {
	sum := condense(apply(t, "force=true", "body"))
	merge := apply(t, "force=true", "body")
	merge.Header.Set("Content-Type", string(types.MergePatchType))
	stream := apply(t, "force=true", "body")
	stream.GetBody = nil
	for name, req := range map[string]*http.Request{
		"other parameters": apply(t, "force=true&dryRun=All", "body"), "other body": apply(t, "force=true", "more"),
		"other patch": merge, "body that is read once": stream,
	} {
		k := &Known{}
		k.Add(where, live(1), sum)
		if k.answer(req.Method, where, condense(req)) != nil {
			t.Errorf("%s: answered", name)
		}
		if k.answer(http.MethodGet, where, [32]byte{}) != nil {
			t.Errorf("%s: an object that was changed is still known", name)
		}
	}

	k := &Known{}
	k.Add(where, live(1), sum)
	for i, want := range []bool{true, false} {
		if got := k.answer(http.MethodGet, where, [32]byte{}) != nil; got != want {
			t.Errorf("GET %d: answered %t", i, got)
		}
	}
	if k.answer(http.MethodPatch, where+"b", sum) != nil {
		t.Error("another object was answered for")
	}
	for i, want := range []bool{true, false} {
		if got := k.answer(http.MethodPatch, where, sum) != nil; got != want {
			t.Errorf("apply %d: answered %t", i, got)
		}
	}
	if (*Known)(nil).answer(http.MethodGet, where, sum) != nil {
		t.Error("nothing knows something")
	}
}

func TestKnown_IsBounded(t *testing.T) {
	sum := condense(apply(t, "force=true", "body"))
	k := &Known{}
	k.Add("/a", live(maxKnown-100), sum)
	k.Add("/b", live(100), sum)
	k.Add("/c", live(1), [32]byte{})
	k.Add("", live(1), sum)
	if len(k.objects) != 1 || k.size > maxKnown {
		t.Errorf("%d objects, %d bytes", len(k.objects), k.size)
	}
}
