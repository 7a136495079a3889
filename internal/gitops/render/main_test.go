package render

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readTree reads a repository of testdata.
func readTree(t testing.TB, dir string) []File {
	t.Helper()
	var files []File
	err := filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		files = append(files, File{Path: filepath.ToSlash(name), Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// tree makes files of "path", "content", "path", "content", ...
func makeTree(parts ...string) []File {
	var files []File
	for i := 0; i < len(parts); i += 2 {
		files = append(files, File{Path: parts[i], Data: []byte(parts[i+1])})
	}
	return files
}

// wantError fails unless err is a *UserError in the given file, if any, and its text holds every part.
func wantError(t *testing.T, err error, file string, parts ...string) {
	t.Helper()
	user, ok := err.(*UserError)
	if !ok {
		t.Fatalf("error is %v (%T), want a *UserError with %q", err, err, parts)
	}
	if file != "" && user.File != file {
		t.Errorf("error %q is in file %q, want %q", err, user.File, file)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error is %q, want it to say %q", err, part)
		}
	}
}
