//go:build e2e

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCopy(t *testing.T) {
	eachProtocol(t, func(t *testing.T, j job) {
		j.webPod(t)
		dir := t.TempDir()
		there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
		content := noise(64 << 20)
		if err := os.WriteFile(there, content, 0o600); err != nil {
			t.Fatal(err)
		}
		j.run(t, "cp", there, "web:/tmp/file")
		if got, want := j.run(t, "exec", "web", "--", "sha256sum", "/tmp/file"), fmt.Sprintf("%x", sha256.Sum256(content)); !strings.HasPrefix(got, want) {
			t.Errorf("sum in the Pod %s, want %s", got, want)
		}
		j.run(t, "cp", "web:/tmp/file", back)
		got, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(got) != sha256.Sum256(content) {
			t.Errorf("%d bytes came back that differ from the %d sent", len(got), len(content))
		}
	})
}
