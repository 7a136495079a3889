package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// modulePath is the module this package belongs to.
const modulePath = "gitlab.com/agentk/agentk"

// cache is the folder of what was built, and the folder it is built from.
type cache struct {
	dir    string // <user's cache folder>/agentk/<hash of the recipes>
	source string // test/kube in the checkout
}

// openCache finds the recipes in the checkout and the cache folder that belongs to exactly these recipes.
func openCache() (*cache, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	source := filepath.Join(root, "test", "kube")
	hash, err := hashFiles(source, "recipe", "image")
	if err != nil {
		return nil, fmt.Errorf("hash recipes: %w", err)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("cache folder: %w", err)
	}
	dir := filepath.Join(user, "agentk", hash)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache folder: %w", err)
	}
	return &cache{dir: dir, source: source}, nil
}

// moduleRoot walks up from the working folder: go test runs in the folder of the tested package, go run in a folder of the module. The
// recipes cannot be embedded, since they are modules of their own.
func moduleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module "+modulePath+"\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside a checkout of %s", start, modulePath)
		}
	}
}

// hashFiles returns a short name for the content of all files in some folders below root, and for the machine's kind.
func hashFiles(root string, folders ...string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.GOOS, runtime.GOARCH)
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, "%s %d\n", filepath.ToSlash(name), len(content))
			sum.Write(content)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}
