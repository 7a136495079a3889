package line

import (
	"os"
	"strings"
	"testing"
)

// TestBuildSettings_AreThoseOfTheImages keeps what is measured the same as what is released.
func TestBuildSettings_AreThoseOfTheImages(t *testing.T) {
	released, err := os.ReadFile("../../deploy/images/compile.go")
	if err != nil {
		t.Fatal(err)
	}
	env, flags := buildSettings(false)
	if len(env) == 0 || len(flags) == 0 {
		t.Fatalf("environment %q, flags %q", env, flags)
	}
	for _, flag := range flags {
		if !strings.Contains(string(released), `"`+flag) {
			t.Errorf("images are built without %s", flag)
		}
	}
}
