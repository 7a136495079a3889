// Package selection says which files of a commit a list of globs and file names means, and where to look for them. It never reads
// anything: whoever lists a repository asks for each entry. The same list means the same files whatever the repository is read with.
package selection

import (
	"fmt"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// UserError is a mistake in the list of paths, or a repository that does not fit it.
type UserError struct{ Reason string }

func (e *UserError) Error() string { return e.Reason }

func userError(format string, args ...any) error {
	return &UserError{Reason: fmt.Sprintf(format, args...)}
}

// Glob is a pattern of files: "*" and "?" stay inside a path component, "**" as a whole component stands for any number of them,
// and there are [classes] and {alternatives}.
type Glob struct {
	pattern string
	dir     string
	deep    bool
}

// ParseGlob reads a pattern. A leading slash means nothing. The error is a *UserError.
func ParseGlob(pattern string) (Glob, error) {
	clean := strings.TrimLeft(pattern, "/")
	if clean == "" || !doublestar.ValidatePattern(clean) {
		return Glob{}, userError("%.200q is not a glob", pattern)
	}
	for _, component := range strings.Split(clean, "/") {
		if component == ".." || component == "." || component == "" {
			return Glob{}, userError("glob %.200q has a component %q, which no file of a repository has", pattern, component)
		}
	}
	g := Glob{pattern: clean}
	special := strings.IndexAny(clean, `*?[{\`)
	rest := clean
	if special < 0 {
		special = len(clean)
	}
	if slash := strings.LastIndexByte(clean[:special], '/'); slash >= 0 {
		g.dir, rest = clean[:slash], clean[slash+1:]
	}
	g.deep = strings.Contains(rest, "/") || strings.Contains(rest, "**") || strings.Contains(rest, "[")
	return g, nil
}

// Dir is the directory below which all files of the glob are; empty: the root of the repository.
func (g Glob) Dir() string { return g.dir }

// Deep says whether directories below Dir have to be listed, too.
func (g Glob) Deep() bool { return g.deep }

// Match says whether the glob means the file. Files in hidden directories, those whose name begins with a dot, are never meant.
func (g Glob) Match(file string) bool {
	if Hidden(file) {
		return false
	}
	matched, err := doublestar.Match(g.pattern, file)
	return err == nil && matched
}

// Hidden says whether a directory on the way to file is hidden. A hidden file in a plain directory is not.
func Hidden(file string) bool {
	dir := path.Dir(file)
	return dir != "." && (dir[0] == '.' || strings.Contains(dir, "/."))
}

// CleanFile checks the name of a file that was asked for by name. The error is a *UserError.
func CleanFile(file string) (string, error) {
	clean := strings.TrimLeft(file, "/")
	if clean == "" || strings.ContainsRune(clean, 0) || path.Clean(clean) != clean || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", userError("%.200q is not the path of a file in a repository", file)
	}
	return clean, nil
}

// Budget counts what is visited and chosen for one list of paths.
type Budget struct {
	// Files is how many entries may be visited.
	Files int

	visited int
	chosen  map[string]bool
}

// Visit counts an entry of a listing. The error is a *UserError.
func (b *Budget) Visit() error {
	if b.visited++; b.visited > b.Files {
		return userError("more than %d entries of the repository had to be looked at (limit on files); narrow the globs", b.Files)
	}
	return nil
}

// Visited is how many entries were counted.
func (b *Budget) Visited() int { return b.visited }

// Choose marks a file that a glob means. That two globs mean the same file is an error, a *UserError.
func (b *Budget) Choose(file string) error {
	if b.chosen[file] {
		return userError("%.200q is meant by two entries of the list of paths (visited more than once)", file)
	}
	b.mark(file)
	return nil
}

// ChooseFile marks a file that was asked for by name; false: it was chosen before, and that is no mistake.
func (b *Budget) ChooseFile(file string) bool {
	if b.chosen[file] {
		return false
	}
	b.mark(file)
	return true
}

func (b *Budget) mark(file string) {
	if b.chosen == nil {
		b.chosen = map[string]bool{}
	}
	b.chosen[file] = true
}
