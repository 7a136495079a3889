package render

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: "

// where lists objects as "file:line kind namespace/name".
func where(objects []Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, fmt.Sprintf("%s:%d %s", o.File, o.Line, describe(o.GetKind(), o.GetNamespace(), o.GetName())))
	}
	return out
}

func TestManifests_FindsEveryObjectAndItsLine(t *testing.T) {
	list := "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(configMap, "\n", "\n  ") + "l1\n- {apiVersion: v1, kind: Secret, metadata: {name: l2, namespace: ns}}\n"
	for _, tc := range []struct {
		name, file, text string
		want             []string
	}{
		{"one", "a.yaml", configMap + "a\n", []string{"a.yaml:1 ConfigMap a"}},
		{"several", "a.yaml", configMap + "a\n---\n" + configMap + "b\n", []string{"a.yaml:1 ConfigMap a", "a.yaml:6 ConfigMap b"}},
		{"empty ones", "a.yaml", "---\n# nothing\n---\n\n---\n" + configMap + "a\n---\n---\nnull\n--- # end\n", []string{"a.yaml:6 ConfigMap a"}},
		{"no line break at the end", "a.yml", configMap + "a", []string{"a.yml:1 ConfigMap a"}},
		{"Windows line ends", "a.yaml", strings.ReplaceAll("---\n"+configMap+"a\n---\n"+configMap+"b\n", "\n", "\r\n"), []string{"a.yaml:2 ConfigMap a", "a.yaml:7 ConfigMap b"}},
		{"old line ends", "a.yaml", strings.ReplaceAll(configMap+"a\n---\n"+configMap+"b\n", "\n", "\r"), []string{"a.yaml:1 ConfigMap a", "a.yaml:6 ConfigMap b"}},
		{"byte order mark", "a.yaml", "\ufeff---\n" + configMap + "a\n", []string{"a.yaml:2 ConfigMap a"}},
		{"directive and end marker", "a.yaml", "%YAML 1.1\n---\n" + configMap + "a\n...\n# between\n" + configMap + "b\n", []string{"a.yaml:3 ConfigMap a", "a.yaml:9 ConfigMap b"}},
		{"content on the marker's line", "a.yaml", "--- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n", []string{"a.yaml:1 ConfigMap a"}},
		{"marker in text", "a.yaml", configMap + "a\ndata:\n  text: |\n    ---\n    ...\n---\n" + configMap + "b\n", []string{"a.yaml:1 ConfigMap a", "a.yaml:10 ConfigMap b"}},
		{"list", "a.yaml", list, []string{"a.yaml:4 ConfigMap l1", "a.yaml:8 Secret ns/l2"}},
		{"typed list", "a.yaml", "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n", []string{"a.yaml:4 ConfigMap a"}},
		{"list in a list", "a.yaml", "kind: List\napiVersion: v1\nitems:\n- kind: List\n  apiVersion: v1\n  items:\n  - {apiVersion: v1, kind: Pod, metadata: {name: p}}\n", []string{"a.yaml:7 Pod p"}},
		{"empty list", "a.yaml", "apiVersion: v1\nkind: List\nitems: []\n", nil},
		{"list without items", "a.yaml", "apiVersion: v1\nkind: List\nitems:\n", nil},
		{"list without items in JSON", "a.json", `{"apiVersion": "v1", "kind": "List", "items": null}`, nil},
		{"null items of another kind", "a.yaml", "apiVersion: a/v1\nkind: AllowList\nmetadata: {name: s}\nitems:\n", []string{"a.yaml:1 AllowList s"}},
		{"items that are no list", "a.yaml", "apiVersion: v1\nkind: Shop\nmetadata: {name: s}\nitems: [a]\n", []string{"a.yaml:1 Shop s"}},
		{"JSON", "a.json", "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"\\ud83d\\ude00\"}\n}\n", []string{"a.json:1 Pod \U0001F600"}},
		{"JSON in a row", "a.json", "\n{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}\n\n{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}", []string{"a.json:2 Pod a", "a.json:4 Pod b"}},
		{"flow mapping", "a.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n", []string{"a.yaml:1 Pod a"}},
		{"anchors", "a.yaml", configMap + "a\n  labels: &l {a: b}\n  annotations: *l\n", []string{"a.yaml:1 ConfigMap a"}},
		{"no content", "a.yaml", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Manifests(makeTree(tc.file, tc.text), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, where(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Scalars are those of kubectl: YAML 1.1, whole numbers stay whole.
func TestManifests_ScalarsAreKubectls(t *testing.T) {
	got, err := Manifests(makeTree("a.yaml", configMap+"a\n  annotations: {empty: }\ndata: {a: yes, b: 0644, c: 12345678901, d: 1.5, e: \"yes\", f: 2026-01-01}\n"), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"a": true, "b": int64(420), "c": int64(12345678901), "d": 1.5, "e": "yes", "f": "2026-01-01"}
	if diff := cmp.Diff(want, got[0].Object["data"]); diff != "" {
		t.Error(diff)
	}
	if annotations := got[0].GetAnnotations(); len(annotations) != 1 || annotations["empty"] != "" {
		t.Errorf("annotations are %q, want one that is empty", annotations)
	}
}

func TestManifests_RefusesWithFileLineAndReason(t *testing.T) {
	for _, tc := range []struct {
		name, file, text, place string
		reasons                 []string
	}{
		{"not YAML", "a.yaml", configMap + "a\n---\na: b: c\n", "d/a.yaml:6", []string{"not YAML", "mapping values"}},
		{"not JSON", "a.json", "{\"a\":\n1,,}", "d/a.json:2", []string{"not JSON"}},
		{"template", "a.yaml", "---\n---\nname: {{ .Values.x }}\n", "d/a.yaml:3", []string{"a template"}},
		{"list at the top", "a.yaml", "- a\n", "d/a.yaml:1", []string{"not an object but a list"}},
		{"symbolic link as Git has it", "a.yaml", "../../../etc/passwd", "d/a.yaml:1", []string{"not an object but a single value"}},
		{"binary", "a.yaml", "\xff\xfe\x00", "d/a.yaml", []string{"not UTF-8"}},
		{"control characters", "a.yaml", "a: \x01\n", "d/a.yaml", []string{"control characters"}},
		{"key twice", "a.yaml", "---\n" + configMap + "a\ndata:\n  k: 1\n  k: 2\n", "d/a.yaml:8", []string{`key "k" already set`}},
		{"JSON key twice", "a.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","name":"b"}}`, "d/a.json:1", []string{"duplicate", "name"}},
		{"no apiVersion", "a.yaml", "kind: Pod\nmetadata: {name: p}\n", "d/a.yaml:1: Pod p", []string{"no apiVersion"}},
		{"odd apiVersion", "a.yaml", "apiVersion: a/b/c\nkind: Pod\nmetadata: {name: p}\n", "d/a.yaml:1: Pod p", []string{"a/b/c"}},
		{"no kind", "a.yaml", "apiVersion: v1\nmetadata: {name: p}\n", "d/a.yaml:1: p", []string{"no kind"}},
		{"kind is a number", "a.yaml", "apiVersion: v1\nkind: 1\nmetadata: {name: p}\n", "d/a.yaml:1", []string{"kind is of the wrong type"}},
		{"no metadata", "a.yaml", "apiVersion: v1\nkind: Pod\n", "d/a.yaml:1: Pod", []string{"no metadata"}},
		{"no name", "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {}\n", "d/a.yaml:1: Pod", []string{"metadata.name"}},
		{"name is a number", "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: 1}\n", "d/a.yaml:1: Pod", []string{"not a string"}},
		{"generateName", "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {generateName: p-}\n", "d/a.yaml:1: Pod", []string{"generateName"}},
		{"namespace is a number", "a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: 1}\n", "d/a.yaml:1: Pod p", []string{"namespace"}},
		{"annotation is a number", "a.yaml", configMap + "a\n  annotations: {ok: yes!, port: 80}\n", "d/a.yaml:1: ConfigMap a", []string{"annotations[port]", "quote"}},
		{"item of a list", "a.yaml", "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(configMap, "\n", "\n  ") + "a\n- {kind: Pod, metadata: {name: p}}\n", "d/a.yaml:8: Pod p", []string{"no apiVersion"}},
		{"item is a text", "a.yaml", "apiVersion: v1\nkind: List\nitems: [a]\n", "d/a.yaml:3", []string{"item 0"}},
		{"kustomization", "a.yaml", "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n", "d/a.yaml:1", []string{"kustomize", "paths"}},
		{"two documents for the parser only", "a.yaml", configMap + "a\u0085---\u0085" + configMap + "b\n", "d/a.yaml", []string{"follows the end"}},
		{"deep", "a.yaml", "a: " + strings.Repeat("[", 300) + strings.Repeat("]", 300), "d/a.yaml:1", []string{"nested"}},
		{"deep JSON", "a.json", `{"a":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + "}", "d/a.json:1", []string{"nested"}},
		{"deep through aliases", "a.yaml", "a0: &a0 [x]\n" + chain(300), "d/a.yaml:1", []string{"nested"}},
		{"deep lists", "a.yaml", strings.Repeat("{apiVersion: v1, kind: List, items: [", 12) + strings.Repeat("]}", 12), "d/a.yaml:1", []string{"nested"}},
		{"alias in itself", "a.yaml", "a: &a [*a]\n", "d/a.yaml:1", []string{"contains it"}},
		{"infinity", "a.yaml", configMap + "a\ndata: {a: .inf}\n", "d/a.yaml", []string{"Inf"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects, err := Manifests(makeTree("d/"+tc.file, tc.text), Limits{})
			if err == nil {
				t.Fatalf("no error but %q", where(objects))
			}
			wantError(t, err, "d/"+tc.file, tc.reasons...)
			if !strings.HasPrefix(err.Error(), tc.place) {
				t.Errorf("error is %q, want it to begin with %q", err, tc.place)
			}
		})
	}
}

// chain makes n aliases, each in a list in the next.
func chain(n int) string {
	var b bytes.Buffer
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d]\n", i, i, i-1)
	}
	return b.String()
}

func TestManifests_Limits(t *testing.T) {
	two := makeTree("a.yaml", configMap+"a\n---\n"+configMap+"b\n", "b.yaml", configMap+"c\n")
	size := int64(len(two[0].Data))
	for _, tc := range []struct {
		name   string
		files  []File
		limits Limits
		file   string
		reason string
	}{
		{"file", two, Limits{FileBytes: size - 1}, "a.yaml", fmt.Sprintf("the limit on one file is %d", size-1)},
		{"total", two, Limits{TotalBytes: size}, "b.yaml", fmt.Sprintf("more than %d bytes", size)},
		{"files", two, Limits{Files: 1}, "b.yaml", "limit on files, 1"},
		{"objects", two, Limits{Objects: 2}, "b.yaml", "more than 2 objects"},
		{"rendered", two, Limits{RenderedBytes: 300}, "a.yaml", "300 bytes"},
		{"rendered JSON", makeTree("a.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`), Limits{RenderedBytes: 50}, "a.json", "50 bytes"},
		{"twice", append(two, two[0]), Limits{}, "a.yaml", "twice"},
		{"parent", makeTree("../a.yaml", ""), Limits{}, "", "../a.yaml"},
		{"absolute", makeTree("/a.yaml", ""), Limits{}, "", "/a.yaml"},
		{"not cleaned", makeTree("a/../b.yaml", ""), Limits{}, "", "a/../b.yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Manifests(tc.files, tc.limits)
			wantError(t, err, tc.file, tc.reason)
		})
	}
	objects, err := Manifests(two, Limits{FileBytes: size, TotalBytes: 2 * size, Files: 2, Objects: 3})
	if err != nil || len(objects) != 3 {
		t.Errorf("at the limits: %d objects, error %v", len(objects), err)
	}
}

func TestUserError_Text(t *testing.T) {
	for want, e := range map[string]*UserError{
		"a.yaml:3: Pod p: is wrong": {"a.yaml", 3, "Pod p", "is wrong"},
		"a.yaml: is wrong":          {File: "a.yaml", Reason: "is wrong"},
		"is wrong":                  {Reason: "is wrong"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
