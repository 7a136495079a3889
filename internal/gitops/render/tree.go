package render

import (
	"net/url"
	"path"
	"strings"
	"unicode"

	"sigs.k8s.io/kustomize/api/konfig"
)

// tree is what was fetched of a repository. The root directory is the empty string.
type tree struct {
	files map[string][]byte
	// covered are directories of which every file is there.
	covered []string
}

func newTree(files []File, covered []string) tree {
	t := tree{files: make(map[string][]byte, len(files)), covered: covered}
	for _, f := range files {
		t.files[f.Path] = f.Data
	}
	return t
}

// complete says whether a path that is not in the tree does not exist.
func (t tree) complete(p string) bool {
	for _, dir := range t.covered {
		if within(p, dir) {
			return true
		}
	}
	return false
}

// kustomizations are the files by which dir is a kustomization; there should be one.
func (t tree) kustomizations(dir string) []string {
	var found []string
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		file := path.Join(dir, name)
		if _, ok := t.files[file]; ok {
			found = append(found, file)
		}
	}
	return found
}

// within says whether p is dir or below it.
func within(p, dir string) bool {
	return dir == "" || p == dir || strings.HasPrefix(p, dir+"/")
}

// cleanDir is the directory in the tree's spelling; false: it is not one inside the repository.
func cleanDir(dir string) (string, bool) {
	if dir == "" || dir == "." || dir == "/" {
		return "", true
	}
	dir = strings.TrimSuffix(dir, "/")
	return dir, cleanPath(dir)
}

// resolve finds out what a reference from a file in dir means. The reason, if any, completes the sentence that begins with the reference.
func resolve(dir, ref string) (target, reason string) {
	switch {
	case strings.TrimSpace(ref) == "":
		return "", "is empty"
	case strings.ContainsFunc(ref, unicode.IsControl):
		return "", "has control characters"
	case remote(ref):
		return "", "is remote: only files and directories of the same repository are read"
	case path.IsAbs(ref):
		return "", "is an absolute path: only files and directories of the same repository are read"
	}
	target = path.Join(dir, ref)
	if target == ".." || strings.HasPrefix(target, "../") {
		return "", "leaves the repository"
	}
	if target == "." {
		target = ""
	}
	return target, ""
}

// remote says whether anything on the way might take ref for the address of a git repository or of a file on the network. It is wider
// than what kustomize does today: https, ssh, git and file URLs in any case, git:: before anything, user@host:path, github.com
// with and without a scheme, and queries that choose a revision.
func remote(ref string) bool {
	lower := strings.ToLower(strings.TrimSpace(ref))
	if strings.Contains(lower, "://") {
		return true
	}
	if u, err := url.Parse(lower); err == nil && u.Scheme != "" {
		return true
	}
	if strings.HasPrefix(lower, "github.com/") || strings.HasPrefix(lower, "github.com:") {
		return true
	}
	first, _, _ := strings.Cut(lower, "/")
	if strings.Contains(first, "@") || strings.Contains(first, ":") {
		return true
	}
	_, query, _ := strings.Cut(lower, "?")
	for _, key := range []string{"ref=", "version=", "timeout=", "submodules="} {
		if strings.HasPrefix(query, key) || strings.Contains(query, "&"+key) {
			return true
		}
	}
	return false
}
