package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/gitops/selection"
)

// maxPath is the longest path of a file, in bytes.
const maxPath = 4096

// file is one to be sent; its data is shared and never changed.
type file struct {
	path string
	data []byte
}

// batch is what is sent for one commit.
type batch struct {
	files   []file
	size    int64
	visited int
}

// wanted is a commit and what of it is asked for.
type wanted struct {
	project backend.Project
	commit  string
	// repository names where the commit is, key also what of it is asked for.
	repository, key string
	listings        []listing
	// files are asked for by name.
	files []string
}

// listing is a folder to list for the globs below it.
type listing struct {
	dir   string
	deep  bool
	globs []selection.Glob
}

// newWanted checks the paths of a request. Globs below the same folder are served by one listing.
func newWanted(p backend.Project, commit string, paths []*gitops.PathCF) (*wanted, error) {
	w := &wanted{project: p, commit: commit, repository: repositoryOf(p)}
	key := []string{w.repository, commit}
	for _, path := range paths {
		if path.GetFile() != "" {
			name, err := selection.CleanFile(path.GetFile())
			if err != nil {
				return nil, err
			}
			w.files, key = append(w.files, name), append(key, "file", name)
			continue
		}
		glob, err := selection.ParseGlob(path.GetGlob())
		if err != nil {
			return nil, err
		}
		key = append(key, "glob", path.GetGlob())
		w.add(glob)
	}
	w.key = joined(key)
	return w, nil
}

func (w *wanted) add(glob selection.Glob) {
	at := slices.IndexFunc(w.listings, func(l listing) bool { return l.dir == glob.Dir() && l.deep == glob.Deep() })
	if at < 0 {
		w.listings = append(w.listings, listing{dir: glob.Dir(), deep: glob.Deep()})
		at = len(w.listings) - 1
	}
	w.listings[at].globs = append(w.listings[at].globs, glob)
}

// repositoryOf names a repository, whatever project and agent it is read for.
func repositoryOf(p backend.Project) string {
	if p.Gitaly == nil {
		return joined([]string{"path", p.Path})
	}
	return joined([]string{"gitaly", p.Gitaly.GetAddress(), p.Repository.GetStorageName(), p.Repository.GetRelativePath()})
}

// joined is different for different lists.
func joined(parts []string) string {
	var b strings.Builder
	for _, part := range parts {
		b.WriteString(strconv.Quote(part))
	}
	return b.String()
}

// loader reads batches.
type loader struct {
	repository Repository
	limits     Limits
	cache      *blobCache
	files      *prometheus.CounterVec
}

// load reads all files of a batch or none. Files that are remembered by their object id are not read again.
func (l *loader) load(ctx context.Context, w *wanted) (*batch, error) {
	budget := &selection.Budget{Files: l.limits.Files}
	entries, err := l.choose(ctx, w, budget)
	if err != nil {
		return nil, err
	}
	b := &batch{visited: budget.Visited(), files: make([]file, len(entries))}
	var missing []backend.Entry
	at := make(map[string]int, len(entries))
	for i, e := range entries {
		at[e.Path] = i
		if data, ok := l.cache.get(w.repository, e.ID); ok {
			if err := l.keep(b, i, e.Path, data); err != nil {
				return nil, err
			}
			continue
		}
		missing = append(missing, e)
	}
	l.files.WithLabelValues(sourceCache).Add(float64(len(entries) - len(missing)))
	if len(missing) == 0 {
		return b, nil
	}
	err = l.repository.Blobs(ctx, w.project, w.commit, missing, l.limits.FileBytes, func(e backend.Entry, data []byte) error {
		l.files.WithLabelValues(sourceGit).Inc()
		l.cache.put(w.repository, e.ID, data)
		return l.keep(b, at[e.Path], e.Path, data)
	})
	if err != nil {
		return nil, err
	}
	for i := range b.files {
		if b.files[i].path == "" {
			return nil, fmt.Errorf("project %q: %s was not read", w.project.Path, entries[i].Path)
		}
	}
	return b, nil
}

// keep puts a file into its place in the batch.
func (l *loader) keep(b *batch, at int, path string, data []byte) error {
	if b.size += int64(len(data)); b.size > l.limits.TotalBytes {
		return &selection.UserError{Reason: fmt.Sprintf(
			"all files together are too big: with %.200q they have more than %d bytes (limit on the total size)", path, l.limits.TotalBytes)}
	}
	b.files[at] = file{path: path, data: data}
	return nil
}

// choose finds the files that are asked for, first those of the globs.
func (l *loader) choose(ctx context.Context, w *wanted, budget *selection.Budget) ([]backend.Entry, error) {
	var chosen []backend.Entry
	for _, one := range w.listings {
		err := l.repository.List(ctx, w.project, w.commit, one.dir, one.deep, func(e backend.Entry) error {
			if err := budget.Visit(); err != nil || !e.File {
				return err
			}
			for _, glob := range one.globs {
				if !glob.Match(e.Path) {
					continue
				}
				if err := checkPath(e.Path); err != nil {
					return err
				}
				if err := budget.Choose(e.Path); err != nil {
					return err
				}
				chosen = append(chosen, e)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, name := range w.files {
		if err := checkPath(name); err != nil {
			return nil, err
		}
		if !budget.ChooseFile(name) {
			continue
		}
		if err := budget.Visit(); err != nil {
			return nil, err
		}
		chosen = append(chosen, backend.Entry{Path: name})
	}
	return chosen, nil
}

// checkPath refuses what could not be sent: the name of a file travels as text.
func checkPath(path string) error {
	if len(path) > maxPath || !utf8.ValidString(path) {
		return &selection.UserError{Reason: fmt.Sprintf("the path %.200q is longer than %d bytes or not UTF-8 text", path, maxPath)}
	}
	return nil
}
