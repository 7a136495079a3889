package render

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"sort"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// root is where the repository is in the file system that the library sees.
const root = "/repository"

// kustomizing has one place: the library keeps the schemas of kinds for the whole process and changes them while it builds.
var kustomizing = make(chan struct{}, 1)

// Kustomize builds the kustomization in directory dir of the repository that files are of. Files are all files of dir, and of the
// directories in fetched, and may be others.
//
// When the kustomization refers to directories of the repository that were not fetched, there are no objects and need names them: the
// caller fetches all files of each and calls again, with need added to fetched. A reference into dir or fetched that is not in
// files is an error. Need holds every directory at most once, never one that is in fetched, and always one inside the repository.
//
// Errors of the repository are a *UserError; ErrStuck is explained there.
func Kustomize(ctx context.Context, files []File, dir string, l Limits, fetched ...string) (objects []Object, need []string, err error) {
	l = l.orDefaults()
	if err := l.check(files); err != nil {
		return nil, nil, err
	}
	covered := make([]string, 0, 1+len(fetched))
	for _, d := range append([]string{dir}, fetched...) {
		clean, ok := cleanDir(d)
		if !ok {
			return nil, nil, mistake("", 0, "%.200q is not a directory of a repository", d)
		}
		covered = append(covered, clean)
	}
	select {
	case kustomizing <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for another kustomization to be built: %w", context.Cause(ctx))
	}
	b := build{tree: newTree(files, covered), limits: l, dir: covered[0]}
	file := path.Join(b.dir, "kustomization.yaml")
	if found := b.tree.kustomizations(b.dir); len(found) > 0 {
		file = found[0]
	}
	err = guard(ctx, file, func() error {
		// A build that is stuck keeps the place: what it does to the library is not over.
		defer func() { <-kustomizing }()
		return b.run()
	})
	if err != nil {
		return nil, nil, err
	}
	return b.objects, b.need, nil
}

type build struct {
	tree    tree
	limits  Limits
	dir     string
	objects []Object
	need    []string
}

func (b *build) run() error {
	if len(b.tree.kustomizations(b.dir)) == 0 {
		return mistake(path.Join(b.dir, "kustomization.yaml"), 0, "is not a file in this commit: the directory is not that of a kustomization")
	}
	w := newWalker(b.tree, b.limits)
	if err := w.walk(b.dir, nil); err != nil {
		return err
	}
	if len(w.need) > 0 {
		sort.Strings(w.need)
		b.need = w.need
		return nil
	}
	file := w.kustomizations[b.dir].file
	fs := filesys.MakeFsInMemory()
	for name := range w.used {
		if err := fs.WriteFile(path.Join(root, name), b.tree.files[name]); err != nil {
			return mistake(name, 0, "%s", err)
		}
	}
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionUnspecified
	made, err := krusty.MakeKustomizer(options).Run(fs, path.Join(root, b.dir))
	if err != nil {
		return mistake(file, 0, "%s", plain(err))
	}
	d := decoder{limits: b.limits, rendered: true}
	for _, object := range made.Resources() {
		text, err := object.AsYAML()
		if err != nil {
			return &UserError{File: file, Object: describe(object.GetKind(), object.GetNamespace(), object.GetName()), Reason: plain(err)}
		}
		if err := d.file(file, text); err != nil {
			return err
		}
	}
	b.objects = d.objects
	return nil
}

// quoted are parts of the library's messages that repeat what generators were given, secrets among them.
var quoted = regexp.MustCompile("(?s)with config: `.*`|literal sources \\[.*\\]|\\[patch: \".*\"\\]|decoding .*: |(?:at the same time|patch and path in)\n.*")

// notDirectory is what the library adds to the error of a file: that it tried to take it for a directory.
var notDirectory = regexp.MustCompile("(?s)accumulation err='(.*)': must build at directory: .*")

// plain is the library's message without its file system and the contents of the repository.
func plain(err error) string {
	message := quoted.ReplaceAllString(err.Error(), "(...)")
	message = notDirectory.ReplaceAllString(message, "$1")
	message = strings.ReplaceAll(message, root+"/", "")
	return strings.ReplaceAll(message, root, "the repository's root")
}
