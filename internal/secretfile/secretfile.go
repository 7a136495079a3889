// Package secretfile reads a secret, such as a token, from a file that somebody else replaces while the daemon runs.
package secretfile

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxSize bounds what is read; no token is longer.
	maxSize = 1 << 20
	// lookAgain is how long Recent answers without a look at the file.
	lookAgain = time.Second
)

// File is a secret in a file. It is safe for concurrent use.
type File struct {
	path string

	// mu guards all below.
	mu     sync.Mutex
	info   os.FileInfo
	secret string
	// recent is what Recent answers until lookAgain after looked.
	recent    string
	recentErr error
	looked    time.Time
}

// New returns the secret in the file at path. Nothing is read yet.
func New(path string) *File { return &File{path: path} }

// Read returns the contents without one trailing newline. It reads the file again when it was changed or replaced. An empty
// file is an error. Errors name the path, never the contents.
func (f *File) Read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read()
}

// Recent is Read for who asks with every request: it looks at the file once a second at most.
func (f *File) Recent() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); f.looked.IsZero() || now.Sub(f.looked) >= lookAgain {
		f.looked = now
		f.recent, f.recentErr = f.read()
	}
	return f.recent, f.recentErr
}

// read is Read with mu held.
func (f *File) read() (string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return "", err
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() &&
		time.Since(info.ModTime()) > time.Second { // a file written just now may change again within one tick of its clock
		return f.secret, nil
	}
	if info.Size() > maxSize {
		return "", fmt.Errorf("%s: %d bytes are too many for a secret", f.path, info.Size())
	}
	contents, err := os.ReadFile(f.path)
	if err != nil {
		return "", err
	}
	secret := Trim(string(contents))
	if secret == "" {
		return "", fmt.Errorf("%s: file is empty", f.path)
	}
	f.info, f.secret = info, secret
	return secret, nil
}

// Trim removes one trailing newline, as editors and echo leave it.
func Trim(s string) string { return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r") }
