package render

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
)

// walker reads kustomizations, and all that they refer to, in the library's stead: what it let pass, and nothing else, may be built.
type walker struct {
	tree    tree
	limits  Limits
	factory *resmap.Factory

	kustomizations map[string]kustomization
	costs          map[string]int64
	// used are the files that the library will be given.
	used map[string]bool
	// visits and loaded count what the library will build and load, each as often as it will.
	visits int
	loaded int64
	need   []string
}

// kustomization is one that was read.
type kustomization struct {
	dir, file string
	spec      types.Kustomization
	// node is for the lines of errors.
	node *yaml.Node
}

func newWalker(t tree, l Limits) *walker {
	return &walker{
		tree: t, limits: l, factory: resmap.NewFactory(provider.NewDefaultDepProvider().GetResourceFactory()),
		kustomizations: map[string]kustomization{}, costs: map[string]int64{}, used: map[string]bool{},
	}
}

// refuse is the error of one reference.
func (k kustomization) refuse(field, ref, reason string) error {
	return mistake(k.file, k.line(ref), "%s: %.200q %s", field, ref, reason)
}

// line is where a text first stands; 0: nowhere.
func (k kustomization) line(text string) int {
	var find func(n *yaml.Node) int
	find = func(n *yaml.Node) int {
		if n.Kind == yaml.ScalarNode && n.Value == text {
			return n.Line
		}
		for _, child := range n.Content {
			if line := find(child); line > 0 {
				return line
			}
		}
		return 0
	}
	if k.node == nil {
		return 0
	}
	return find(k.node)
}

// enter counts a build of the kustomization in dir and reads it. The error is a *UserError.
func (w *walker) enter(dir string) (kustomization, error) {
	files := w.tree.kustomizations(dir)
	if len(files) > 1 {
		return kustomization{}, mistake(files[1], 0, "the directory has another kustomization, %s", files[0])
	}
	file := files[0]
	if w.visits++; w.visits > w.limits.Files {
		return kustomization{}, mistake(file, 0, "kustomizations would be built more than %d times for one another, the limit on files", w.limits.Files)
	}
	if err := w.loadYAML(file); err != nil {
		return kustomization{}, err
	}
	if k, ok := w.kustomizations[dir]; ok {
		return k, nil
	}
	k := kustomization{dir: dir, file: file}
	docs := split(w.tree.files[file])
	if len(docs) != 1 {
		return kustomization{}, mistake(file, 0, "has %d documents; a kustomization is one", len(docs))
	}
	node, _, err := parseYAML(docs[0], room{0, w.limits.RenderedBytes})
	if err != nil {
		return kustomization{}, userError(file, err)
	}
	k.node = node
	if err := k.spec.Unmarshal(w.tree.files[file]); err != nil {
		line, reason := errorLine(err, 1)
		return kustomization{}, mistake(file, line, "%s", reason)
	}
	k.spec.FixKustomization()
	if err := k.checkFields(); err != nil {
		return kustomization{}, err
	}
	w.kustomizations[dir] = k
	return k, nil
}

// checkFields refuses what is of no use here, and what the library would quote in full when it is wrong.
func (k kustomization) checkFields() error {
	if len(k.spec.HelmCharts) > 0 || k.spec.HelmGlobals != nil {
		return mistake(k.file, 0, "Helm charts inside of a kustomization are not rendered; name the chart in charts")
	}
	sources := []types.KvPairSources{}
	for _, g := range k.spec.ConfigMapGenerator {
		sources = append(sources, g.KvPairSources)
	}
	for _, g := range k.spec.SecretGenerator {
		sources = append(sources, g.KvPairSources)
	}
	for _, source := range sources {
		for i, literal := range source.LiteralSources {
			if strings.Index(literal, "=") < 1 {
				return mistake(k.file, k.line(literal), "literal %d of a generator is not key=value", i)
			}
		}
	}
	return nil
}

// walk checks the kustomization in dir, which is there. above are the directories that it is built for. The error is a *UserError.
func (w *walker) walk(dir string, above []string) error {
	k, err := w.enter(dir)
	if err != nil {
		return err
	}
	above = append(slices.Clone(above), dir)
	for _, ref := range k.spec.Resources {
		if err := w.resource(k, "resources", ref, above, w.loadYAML, w.walk); err != nil {
			return err
		}
	}
	for _, ref := range k.spec.Components {
		if err := w.directory(k, "components", ref, above, w.walk); err != nil {
			return err
		}
	}
	if err := w.walkFiles(k); err != nil {
		return err
	}
	return w.walkPlugins(k, above)
}

// walkFiles checks the fields that can only name files.
func (w *walker) walkFiles(k kustomization) error {
	refs := references{
		{"crds", k.spec.Crds, w.loadYAML},
		{"configurations", k.spec.Configurations, w.loadYAML},
	}
	if schema, ok := k.spec.OpenAPI["path"]; ok {
		refs = append(refs, reference{"openapi.path", []string{schema}, w.loadYAML})
	}
	//lint:ignore SA1019 deprecated in kustomizations, and still read
	for _, p := range slices.Concat(k.spec.Patches, k.spec.PatchesJson6902) {
		if p.Path != "" {
			refs = append(refs, reference{"patches[].path", []string{p.Path}, w.loadYAML})
		}
		if err := w.embedded(k, "patches[].patch", p.Patch); err != nil {
			return err
		}
	}
	for _, r := range k.spec.Replacements {
		if r.Path != "" {
			refs = append(refs, reference{"replacements[].path", []string{r.Path}, w.loadYAML})
		}
	}
	for _, g := range k.spec.ConfigMapGenerator {
		refs = append(refs, sourceReferences("configMapGenerator[]", g.KvPairSources, w.load)...)
	}
	for _, g := range k.spec.SecretGenerator {
		refs = append(refs, sourceReferences("secretGenerator[]", g.KvPairSources, w.load)...)
	}
	if err := w.files(k, refs); err != nil {
		return err
	}
	var patches []string
	//lint:ignore SA1019 deprecated in kustomizations, and still read
	for _, p := range k.spec.PatchesStrategicMerge {
		patches = append(patches, string(p))
	}
	return w.inlineOrFile(k, "patchesStrategicMerge", patches)
}

// inlineOrFile checks entries that are a patch, or else the file of one.
func (w *walker) inlineOrFile(k kustomization, field string, entries []string) error {
	for _, entry := range entries {
		inline, err := w.inline(k, field, entry)
		if err != nil {
			return err
		}
		if inline != nil {
			continue
		}
		if err := w.files(k, references{{field, []string{entry}, w.loadYAML}}); err != nil {
			return err
		}
	}
	return nil
}

// inline reads an entry as the library does: objects, when it is made of objects. Nil: it is something else, like a path.
func (w *walker) inline(k kustomization, field, entry string) (resmap.ResMap, error) {
	if _, err := measureText([]byte(entry), room{w.loaded, w.limits.RenderedBytes}); err != nil {
		if bound, ok := err.(*boundError); ok {
			return nil, mistake(k.file, k.line(entry), "%s: %s", field, bound.reason)
		}
		return nil, nil
	}
	objects, err := w.factory.NewResMapFromBytes([]byte(entry))
	if err != nil {
		return nil, nil
	}
	return objects, w.charge(k.file, int64(len(entry)))
}

// embedded measures YAML or JSON inside of a kustomization.
func (w *walker) embedded(k kustomization, field, text string) error {
	cost, err := measureText([]byte(text), room{w.loaded, w.limits.RenderedBytes})
	if err != nil {
		return mistake(k.file, k.line(text), "%s: %s", field, err)
	}
	return w.charge(k.file, cost)
}

// require asks for a directory of the repository.
func (w *walker) require(dir string) {
	if !slices.Contains(w.need, dir) {
		w.need = append(w.need, dir)
	}
}

// load counts a file that the library takes as it is.
func (w *walker) load(file string) error {
	w.used[file] = true
	return w.charge(file, int64(len(w.tree.files[file])))
}

// loadYAML counts a file that the library parses.
func (w *walker) loadYAML(file string) error {
	cost, known := w.costs[file]
	if !known {
		var err error
		if cost, err = measureText(w.tree.files[file], room{w.loaded, w.limits.RenderedBytes}); err != nil {
			return userError(file, err)
		}
		w.costs[file] = cost
	}
	w.used[file] = true
	return w.charge(file, cost)
}

func (w *walker) charge(file string, cost int64) error {
	if w.loaded += cost; w.loaded > w.limits.RenderedBytes {
		return mistake(file, 0, "with it the kustomization loads more than %d bytes, each file as often as it is used: the limit on what is rendered",
			w.limits.RenderedBytes)
	}
	return nil
}
