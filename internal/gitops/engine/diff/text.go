package diff

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/pmezard/go-difflib/difflib"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// maxLines bounds what is compared line by line: the time for it grows with the square.
const maxLines = 20000

// contextLines is how many unchanged lines are shown around a change.
const contextLines = 3

// own are fields that the API server sets and nobody applies.
var own = [][]string{
	{"metadata", "managedFields"},
	{"metadata", "resourceVersion"},
	{"metadata", "generation"},
	{"metadata", "uid"},
	{"metadata", "creationTimestamp"},
	{"metadata", "selfLink"},
	{"status"},
}

// redactor hides what Secrets hold: equal values look equal and different ones different, within one comparison.
type redactor struct{ key []byte }

func (r redactor) redact(u *unstructured.Unstructured) {
	if u.GetKind() != "Secret" || u.GroupVersionKind().Group != "" {
		return
	}
	for _, field := range []string{"data", "stringData"} {
		values, _, _ := unstructured.NestedMap(u.Object, field)
		for name, value := range values {
			mac := hmac.New(sha256.New, r.key)
			fmt.Fprint(mac, value)
			values[name] = fmt.Sprintf("(hidden, %x)", mac.Sum(nil)[:4])
		}
		if values != nil {
			_ = unstructured.SetNestedMap(u.Object, values, field)
		}
	}
	annotations := u.GetAnnotations()
	if _, ok := annotations["kubectl.kubernetes.io/last-applied-configuration"]; ok {
		annotations["kubectl.kubernetes.io/last-applied-configuration"] = "(hidden)"
		u.SetAnnotations(annotations)
	}
}

// text is an object as it is compared; nil: no lines.
func (r redactor) text(u *unstructured.Unstructured) ([]string, error) {
	if u == nil {
		return nil, nil
	}
	u = u.DeepCopy()
	for _, field := range own {
		unstructured.RemoveNestedField(u.Object, field...)
	}
	r.redact(u)
	data, err := yaml.Marshal(u.Object)
	if err != nil {
		return nil, err
	}
	lines := difflib.SplitLines(string(data))
	// SplitLines adds an empty line at the end.
	return lines[:len(lines)-1], nil
}

// unified is the difference; empty: there is none.
func (r redactor) unified(live, wanted *unstructured.Unstructured) (string, error) {
	a, err := r.text(live)
	if err != nil {
		return "", err
	}
	b, err := r.text(wanted)
	if err != nil {
		return "", err
	}
	if len(a)+len(b) > maxLines {
		return fmt.Sprintf("(%d lines in the cluster, %d wanted: too many to compare)\n", len(a), len(b)), nil
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: a, B: b, FromFile: "cluster", ToFile: "repository", Context: contextLines})
}
