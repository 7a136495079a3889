package standalone

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// wantChange waits for a change at a path; others may come before it.
func wantChange(t *testing.T, n *notifier, path string) {
	t.Helper()
	for limit := time.After(20 * time.Second); ; {
		select {
		case got := <-n.changes:
			if got == path {
				return
			}
		case err := <-n.lost:
			t.Fatal(err)
		case <-limit:
			t.Fatalf("nothing is told of %s", filepath.Base(path))
		}
	}
}

// wantNoChange takes what has been told already, up to the change of a marker, and fails if a path is among it.
func wantNoChange(t *testing.T, n *notifier, path, marker string) {
	t.Helper()
	overwrite(t, marker, "x")
	for limit := time.After(20 * time.Second); ; {
		select {
		case got := <-n.changes:
			if got == path {
				t.Errorf("%s is told of", filepath.Base(path))
			}
			if got == marker {
				return
			}
		case <-limit:
			t.Fatal("nothing is told of the marker")
		}
	}
}

func TestNotifier(t *testing.T) {
	n, err := newNotifier()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	root := t.TempDir()
	dir, other := filepath.Join(root, "dir"), filepath.Join(root, "other")
	for _, d := range []string{dir, other} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for range 2 { // again costs nothing
			if err := n.add(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	file, marker := filepath.Join(dir, "file"), func(name string) string { return filepath.Join(other, name) }
	overwrite(t, file, "1")
	wantChange(t, n, file)
	if err := os.Rename(file, filepath.Join(dir, "renamed")); err != nil {
		t.Fatal(err)
	}
	wantChange(t, n, filepath.Join(dir, "renamed"))

	// A folder that was moved away is no longer the one at its path.
	if err := os.Rename(dir, filepath.Join(root, "moved")); err != nil {
		t.Fatal(err)
	}
	wantChange(t, n, dir)
	overwrite(t, filepath.Join(root, "moved", "file"), "2")
	wantNoChange(t, n, file, marker("1"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := n.add(dir); err != nil {
		t.Fatal(err)
	}
	overwrite(t, file, "3")
	wantChange(t, n, file)
	overwrite(t, marker("2"), "x")
	wantChange(t, n, marker("2"))

	n.keep(func(d string) bool { return d == other })
	remove(t, file)
	wantNoChange(t, n, file, marker("3"))
	remove(t, other)
	wantChange(t, n, other)
	if err := n.add(other); err == nil {
		t.Error("a folder that is gone is watched")
	}
	if err := n.add(filepath.Join(dir, "nothing")); err == nil {
		t.Error("what is not there is watched")
	}
}

// Whoever does not listen gets more changes than the kernel keeps, and is told so.
func TestNotifier_Overflow(t *testing.T) {
	n, err := newNotifier()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	dir := t.TempDir()
	if err := n.add(dir); err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	overwrite(t, a, "")
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); {
		for range 10_000 {
			if err := os.Rename(a, b); err != nil {
				t.Fatal(err)
			}
			a, b = b, a
		}
		if overflown(n) {
			return
		}
	}
	t.Error("nothing is told of changes that were lost")
}

// overflown takes all that is there.
func overflown(n *notifier) bool {
	for {
		select {
		case <-n.changes:
		case err := <-n.lost:
			return err == errOverflow
		case <-time.After(time.Second):
			return false
		}
	}
}
