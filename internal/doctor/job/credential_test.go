package job

import (
	"strings"
	"testing"
)

func TestParseCredential(t *testing.T) {
	for text, want := range map[string]credential{
		"ci:7:glcbt-a":     {"ci", 7, "glcbt-a"},
		"ci:7:a:b":         {"ci", 7, "a:b"},
		"pat:12:glpat-abc": {"pat", 12, "glpat-abc"},
	} {
		if got, err := parseCredential(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "canary", "ci:7", "ci:7:", "ci:x:canary", "ci:-1:canary", "ci:0:canary", "canary:7:x", "ci:99999999999999999999:canary"} {
		if got, err := parseCredential(text); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}
