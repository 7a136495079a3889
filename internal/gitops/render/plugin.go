package render

import (
	"fmt"
	"reflect"
	"slices"

	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	kyaml "sigs.k8s.io/yaml"
)

// functionAnnotations make a program or a container of a configuration.
var functionAnnotations = []string{"config.kubernetes.io/function", "config.k8s.io/function"}

// builtinPlugins are those of kustomize's own that may be configured by a file, all but the one that runs helm.
var builtinPlugins = []string{
	"AnnotationsTransformer", "ConfigMapGenerator", "HashTransformer", "IAMPolicyGenerator", "ImageTagTransformer", "LabelTransformer",
	"NamespaceTransformer", "PatchJson6902Transformer", "PatchStrategicMergeTransformer", "PatchTransformer", "PrefixSuffixTransformer",
	"PrefixTransformer", "ReplacementTransformer", "ReplicaCountTransformer", "SecretGenerator", "SuffixTransformer", "ValueAddTransformer",
}

// pluginFiles are the fields by which configurations of built-in plugins name files, under the names and with the decoding of the library.
type pluginFiles struct {
	types.KvPairSources `json:",inline"`
	Path                string                      `json:"path"`
	TargetFilePath      string                      `json:"targetFilePath"`
	Paths               []types.PatchStrategicMerge `json:"paths"`
	Replacements        []types.ReplacementField    `json:"replacements"`
	Patch               string                      `json:"patch"`
	Patches             any                         `json:"patches"`
	JSONOp              string                      `json:"jsonOp"`
}

// walkPlugins checks configurations of generators, transformers and validators: inline, in files, or in directories of files.
func (w *walker) walkPlugins(k kustomization, above []string) error {
	for _, field := range []struct {
		name    string
		entries []string
	}{{"generators", k.spec.Generators}, {"transformers", k.spec.Transformers}, {"validators", k.spec.Validators}} {
		for _, entry := range field.entries {
			inline, err := w.inline(k, field.name, entry)
			if err != nil {
				return err
			}
			if inline != nil {
				err = w.plugins(k, k.file, inline)
			} else {
				err = w.pluginEntry(k, k, field.name, entry, above)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// pluginEntry checks a file or directory that kustomization from names. The files in it are read for owner.
func (w *walker) pluginEntry(owner, from kustomization, field, entry string, above []string) error {
	load := func(file string) error {
		if err := w.loadYAML(file); err != nil {
			return err
		}
		objects, err := w.factory.NewResMapFromBytes(w.tree.files[file])
		if err != nil {
			return mistake(file, 0, "is not the configuration of a plugin: %s", err)
		}
		return w.plugins(owner, file, objects)
	}
	walk := func(dir string, above []string) error { return w.pluginDirectory(owner, dir, above) }
	return w.resource(from, field, entry, above, load, walk)
}

// pluginDirectory checks a kustomization that makes configurations. What it could change, nobody would have checked.
func (w *walker) pluginDirectory(owner kustomization, dir string, above []string) error {
	k, err := w.enter(dir)
	if err != nil {
		return err
	}
	rest := k.spec
	rest.TypeMeta, rest.MetaData, rest.Resources = types.TypeMeta{}, nil, nil
	if !reflect.DeepEqual(rest, types.Kustomization{}) {
		return mistake(k.file, 0, "a kustomization of generators, transformers or validators may have resources and nothing else")
	}
	above = append(slices.Clone(above), dir)
	for _, ref := range k.spec.Resources {
		if err := w.pluginEntry(owner, k, "resources", ref, above); err != nil {
			return err
		}
	}
	return nil
}

// plugins checks configurations that stand in file and are read for owner.
func (w *walker) plugins(owner kustomization, file string, objects resmap.ResMap) error {
	for _, object := range objects.Resources() {
		if err := w.plugin(owner, file, object); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) plugin(owner kustomization, file string, object *resource.Resource) error {
	label := describe(object.GetKind(), "", object.GetName())
	refuse := func(reason string) error { return &UserError{File: file, Object: label, Reason: reason} }
	annotations := object.GetAnnotations()
	for _, key := range functionAnnotations {
		if _, ok := annotations[key]; ok {
			return refuse("is a function, which would run a program or a container: only kustomize's built-in plugins run")
		}
	}
	if gvk := object.GetGvk(); gvk.Group != "" || gvk.Version != "builtin" {
		return refuse("is a plugin of its own, which would run a program: only kustomize's built-in plugins run")
	}
	if object.GetKind() == "HelmChartInflationGenerator" {
		return refuse("runs helm, and that downloads charts; name the chart in charts")
	}
	if !slices.Contains(builtinPlugins, object.GetKind()) {
		return refuse("is not a plugin that kustomize has")
	}
	text, err := object.AsYAML()
	if err != nil {
		return refuse(err.Error())
	}
	var config pluginFiles
	if err := kyaml.Unmarshal(text, &config); err != nil {
		return refuse(fmt.Sprintf("is not the configuration of a plugin: %s", err))
	}
	return w.pluginFiles(kustomization{dir: owner.dir, file: file}, label+" ", config)
}

func (w *walker) pluginFiles(k kustomization, label string, config pluginFiles) error {
	refs := sourceReferences(label+"generator", config.KvPairSources, w.load)
	for _, p := range append([]string{config.Path, config.TargetFilePath}, replacementPaths(config.Replacements)...) {
		if p != "" {
			refs = append(refs, reference{label + "path", []string{p}, w.loadYAML})
		}
	}
	if err := w.files(k, refs); err != nil {
		return err
	}
	var patches []string
	for _, p := range config.Paths {
		patches = append(patches, string(p))
	}
	if err := w.inlineOrFile(k, label+"paths", patches); err != nil {
		return err
	}
	inline, _ := config.Patches.(string)
	for _, text := range []string{config.Patch, inline, config.JSONOp} {
		if err := w.embedded(k, label+"patch", text); err != nil {
			return err
		}
	}
	return nil
}

func replacementPaths(replacements []types.ReplacementField) []string {
	var paths []string
	for _, r := range replacements {
		paths = append(paths, r.Path)
	}
	return paths
}
