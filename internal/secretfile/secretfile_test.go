package secretfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFile_Read(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	f := New(path)
	if _, err := f.Read(); err == nil {
		t.Error("missing file is no error")
	}
	for _, step := range []struct{ contents, want string }{
		{"first", "first"}, {"other", "other"}, {"newline\n", "newline"}, {"two\n\n", "two\n"}, {"dos\r\n", "dos"},
	} {
		if err := os.WriteFile(path, []byte(step.contents), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := f.Read(); err != nil || got != step.want {
				t.Errorf("%q: got %q, %v", step.contents, got, err)
			}
		}
	}
	for name, contents := range map[string]string{"empty": "\n", "huge": strings.Repeat("x", maxSize+1)} {
		if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Recent asks the file system once a second at most, also while there is no file.
func TestFile_Recent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	synctest.Test(t, func(t *testing.T) {
		f := New(path)
		expect := func(want string) {
			t.Helper()
			if got, err := f.Recent(); got != want || (err == nil) != (want != "") {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
		before := ""
		expect(before)
		for _, contents := range []string{"first", "second", "\n"} {
			if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(lookAgain - time.Nanosecond)
			expect(before)
			time.Sleep(time.Nanosecond)
			before = strings.TrimSpace(contents)
			expect(before)
		}
	})
}

func TestFile_Replaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	write := func(name, contents string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "aaa")
	write("b", "bbb")
	f := New(path)
	for _, name := range []string{"a", "b"} {
		_ = os.Remove(path)
		if err := os.Symlink(filepath.Join(dir, name), path); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Read(); err != nil || got != strings.Repeat(name, 3) {
			t.Errorf("got %q, %v", got, err)
		}
	}
}
