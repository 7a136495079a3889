package render

import (
	"bytes"
	"testing"
)

// FuzzManifests holds what must be true of any text: no panic, documents are pieces of the text in order with their right lines, every
// object has a line of the file, a name and a kind.
func FuzzManifests(f *testing.F) {
	for _, seed := range []string{
		"", "---", "a: b", "---\n...\n---", "\ufeff%YAML 1.1\n---\n{}\n", configMap + "a\n---\n" + configMap + "b", "\r\n---\r\n",
		"apiVersion: v1\nkind: List\nitems:\n- {kind: Pod}\n", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}{"b":1}`, "a: &a [*a]", "{]",
		"<<: *x", "? {a: b}\n: c", "--- |\n ---\n", "!!binary x", "\x00", "a: !!map\n", "kind: List\nitems: [&x {kind: Pod}, *x]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		text := lineFeeds(data)
		lines := bytes.Count(text, []byte("\n")) + 1
		at := 0
		for _, doc := range split(data) {
			offset := bytes.Index(text[at:], doc.text)
			if offset < 0 {
				t.Fatalf("document %q is not in the rest of the text", doc.text)
			}
			// What was passed over is blank, but for end markers; doc begins where its line does.
			start := 0
			for range doc.line - 1 {
				start += bytes.IndexByte(text[start:], '\n') + 1
			}
			if !bytes.HasPrefix(text[start:], doc.text) {
				t.Fatalf("document %q does not begin on line %d", doc.text, doc.line)
			}
			at = start + len(doc.text)
		}
		objects, err := Manifests([]File{{"a.yaml", data}}, Limits{FileBytes: 1 << 16, RenderedBytes: 1 << 20})
		if err != nil {
			if user, ok := err.(*UserError); !ok || user.Reason == "" || user.Line > lines {
				t.Fatalf("error is %#v of %d lines", err, lines)
			}
			return
		}
		for _, o := range objects {
			if o.Line < 1 || o.Line > lines || o.GetName() == "" || o.GetKind() == "" || o.GetAPIVersion() == "" {
				t.Fatalf("object %v on line %d of %d", o.Object, o.Line, lines)
			}
			if _, err := o.MarshalJSON(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzResolve: what resolve lets pass stays in the tree.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{"a", "../a", "../../..", "https://x", "git::x", "a@b:c", ".", "./..//b", "a/../../.."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		target, reason := resolve("some/where", ref)
		if reason == "" && target != "" && !cleanPath(target) {
			t.Fatalf("%q means %q", ref, target)
		}
	})
}
