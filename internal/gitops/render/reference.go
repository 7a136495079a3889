package render

import (
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
)

// reference is a field and the files that it names; load reads one.
type reference struct {
	field string
	refs  []string
	load  func(file string) error
}

type references []reference

// sourceReferences are the files of a generator: "path" or "key=path".
func sourceReferences(field string, source types.KvPairSources, load func(string) error) references {
	envs := source.EnvSources
	if source.EnvSource != "" {
		envs = append(slices.Clone(envs), source.EnvSource)
	}
	return references{{field + ".envs", envs, load}, {field + ".files", source.FileSources, load}}
}

// files checks references that must name files in or below the kustomization's directory.
func (w *walker) files(k kustomization, refs references) error {
	for _, field := range refs {
		for _, ref := range field.refs {
			name := ref
			if strings.HasSuffix(field.field, ".files") {
				// A URL may have "=" itself: it is told from a key before it is cut.
				if remote(ref) {
					return k.refuse(field.field, ref, "is remote: only files of the same repository are read")
				}
				if key, file, ok := strings.Cut(ref, "="); ok && key != "" {
					name = file
				}
			}
			target, reason := resolve(k.dir, name)
			if reason != "" {
				return k.refuse(field.field, ref, reason)
			}
			if err := w.file(k, field, ref, target); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walker) file(k kustomization, field reference, ref, target string) error {
	if !within(target, k.dir) {
		return k.refuse(field.field, ref, "is outside of the kustomization's directory; of other directories, only kustomizations can be used")
	}
	if _, ok := w.tree.files[target]; ok {
		return field.load(target)
	}
	if w.tree.complete(target) {
		return k.refuse(field.field, ref, "is not a file in this commit")
	}
	w.require(k.dir)
	return nil
}

// resource checks an entry that is a file or a directory.
func (w *walker) resource(k kustomization, field, ref string, above []string, load func(string) error, walk func(string, []string) error) error {
	target, reason := resolve(k.dir, ref)
	if reason != "" {
		return k.refuse(field, ref, reason)
	}
	_, isFile := w.tree.files[target]
	if ext := path.Ext(target); !within(target, k.dir) && (ext == ".yaml" || ext == ".yml" || ext == ".json") && len(w.tree.kustomizations(target)) == 0 {
		isFile = true
	}
	if isFile {
		return w.file(k, reference{field, nil, load}, ref, target)
	}
	return w.directory(k, field, ref, above, walk)
}

// directory checks an entry that is the directory of another kustomization.
func (w *walker) directory(k kustomization, field, ref string, above []string, walk func(string, []string) error) error {
	target, reason := resolve(k.dir, ref)
	if reason != "" {
		return k.refuse(field, ref, reason)
	}
	for _, dir := range above {
		if within(dir, target) {
			return k.refuse(field, ref, "contains a kustomization that is built from it")
		}
	}
	if len(w.tree.kustomizations(target)) > 0 {
		return walk(target, above)
	}
	if w.tree.complete(target) {
		return k.refuse(field, ref, "is neither a file nor the directory of a kustomization in this commit")
	}
	w.require(target)
	return nil
}
