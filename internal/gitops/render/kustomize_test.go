package render

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: c}]}\n"

// An overlay is fetched first, then what it needs, then what that needs.
func TestKustomize_NeedsDirectoriesOneAfterTheOther(t *testing.T) {
	all := map[string][]File{
		"overlays/prod": makeTree("overlays/prod/kustomization.yaml", "resources: [../../base, ../../other/]\ncomponents: [../../parts/one]\ntransformers: [../../plugins]\n"),
		"base":          makeTree("base/kustomization.yaml", "resources: [pod.yaml, ../common]\n", "base/pod.yaml", pod),
		"other":         makeTree("other/kustomization.yaml", "configMapGenerator: [{name: c, files: [f.txt]}]\n", "other/f.txt", "f"),
		"parts/one":     makeTree("parts/one/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamePrefix: one-\n"),
		"plugins":       makeTree("plugins/kustomization.yaml", "resources: [p.yaml]\n", "plugins/p.yaml", "apiVersion: builtin\nkind: SuffixTransformer\nmetadata: {name: s}\nsuffix: -s\nfieldSpecs: [{path: metadata/name}]\n"),
		"common":        makeTree("common/kustomization.yaml", "resources: [sa.yaml]\n", "common/sa.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: sa}\n"),
	}
	files := all["overlays/prod"]
	var fetched []string
	for _, want := range [][]string{{"base", "other", "parts/one", "plugins"}, {"common"}} {
		objects, need, err := Kustomize(t.Context(), files, "overlays/prod", Limits{}, fetched...)
		if err != nil || objects != nil {
			t.Fatalf("objects %q, error %v", where(objects), err)
		}
		if diff := cmp.Diff(want, need); diff != "" {
			t.Fatal(diff)
		}
		for _, dir := range need {
			files = append(files, all[dir]...)
			fetched = append(fetched, dir)
		}
	}
	objects, need, err := Kustomize(t.Context(), files, "overlays/prod", Limits{}, fetched...)
	if err != nil || need != nil {
		t.Fatalf("need %q, error %v", need, err)
	}
	if len(objects) != 3 {
		t.Errorf("objects are %q, want three", where(objects))
	}
	for _, o := range objects {
		if name := o.GetName(); !strings.HasPrefix(name, "one-") || !strings.Contains(name, "-s") {
			t.Errorf("%s did not go through the component and the plugin", name)
		}
	}
}

func TestKustomize_NeedOfFilesThatAGlobLeftOut(t *testing.T) {
	files := makeTree("a/kustomization.yaml", "resources: [../b]\n", "b/kustomization.yaml", "configMapGenerator: [{name: c, files: [f.txt]}]\n")
	_, need, err := Kustomize(t.Context(), files, "a", Limits{})
	if err != nil || len(need) != 1 || need[0] != "b" {
		t.Fatalf("need %q, error %v, want b", need, err)
	}
	_, _, err = Kustomize(t.Context(), files, "a", Limits{}, "b")
	wantError(t, err, "b/kustomization.yaml", "f.txt", "not a file in this commit")
}

func TestKustomize_Refuses(t *testing.T) {
	const component = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n"
	for _, tc := range []struct {
		name    string
		files   []File
		file    string
		reasons []string
	}{
		{"no kustomization", makeTree("d/pod.yaml", pod), "d/kustomization.yaml", []string{"not a file in this commit"}},
		{"two kustomizations", makeTree("d/kustomization.yaml", "resources: [p.yaml]", "d/kustomization.yml", ""), "d/kustomization.yml", []string{"another kustomization"}},
		{"empty", makeTree("d/kustomization.yaml", ""), "d/kustomization.yaml", []string{"0 documents"}},
		{"two documents", makeTree("d/kustomization.yaml", "resources: []\n---\nresources: []\n"), "d/kustomization.yaml", []string{"2 documents"}},
		{"unknown field", makeTree("d/kustomization.yaml", "resource: [a]\n"), "d/kustomization.yaml", []string{`unknown field "resource"`}},
		{"not YAML", makeTree("d/kustomization.yaml", "a: b: c\n"), "d/kustomization.yaml", []string{":1: is not YAML"}},
		{"missing file", makeTree("d/kustomization.yaml", "namePrefix: x\nresources:\n- p.yaml\n"), "d/kustomization.yaml", []string{":3: resources", `"p.yaml"`, "in this commit"}},
		{"missing patch", makeTree("d/kustomization.yaml", "patches:\n- path: p.yaml\n"), "d/kustomization.yaml", []string{":2: patches[].path", "not a file"}},
		{"missing directory below", makeTree("d/kustomization.yaml", "resources: [sub]\n", "d/sub/x.txt", ""), "d/kustomization.yaml", []string{"neither a file nor"}},
		{"file of another directory", makeTree("d/kustomization.yaml", "resources: [../p.yaml]\n", "p.yaml", pod), "d/kustomization.yaml", []string{"../p.yaml", "outside of the kustomization's directory"}},
		{"file of another directory, not fetched", makeTree("d/kustomization.yaml", "resources: [../q/p.yaml]\n"), "d/kustomization.yaml", []string{"outside of the kustomization's directory"}},
		{"patch of another directory", makeTree("d/kustomization.yaml", "patches: [{path: ../p}]\n", "p", ""), "d/kustomization.yaml", []string{"outside of the kustomization's directory"}},
		{"itself", makeTree("d/kustomization.yaml", "resources: [.]\n"), "d/kustomization.yaml", []string{"built from it"}},
		{"above itself", makeTree("d/kustomization.yaml", "resources: [..]\n"), "d/kustomization.yaml", []string{"built from it"}},
		{"in a circle", makeTree("d/kustomization.yaml", "resources: [../e]\n", "e/kustomization.yaml", "resources: [../d]\n"), "e/kustomization.yaml", []string{"built from it"}},
		{"component in a circle", makeTree("d/kustomization.yaml", "components: [../e]\n", "e/kustomization.yaml", component+"components: [../e]\n"), "e/kustomization.yaml", []string{"built from it"}},
		{"object without a name", makeTree("d/kustomization.yaml", "resources: [p.yaml]\n", "d/p.yaml", "apiVersion: v1\nkind: Pod\n"), "d/kustomization.yaml", []string{"p.yaml", "name"}},
		{"symbolic link as Git has it", makeTree("d/kustomization.yaml", "resources: [p.yaml]\n", "d/p.yaml", "../../../etc/passwd"), "d/kustomization.yaml", []string{"p.yaml", "missing Resource metadata"}},
		{"symbolic link that was left out", makeTree("d/kustomization.yaml", "configMapGenerator: [{name: x, files: [link]}]\n"), "d/kustomization.yaml", []string{"not a file in this commit"}},
		{"resource is not YAML", makeTree("d/kustomization.yaml", "resources: [p.yaml]\n", "d/p.yaml", "---\na: b: c\n"), "d/p.yaml", []string{"p.yaml:2", "not YAML"}},
		{"literal that is none", makeTree("d/kustomization.yaml", "secretGenerator: [{name: x, literals: [hunter2]}]\n"), "d/kustomization.yaml", []string{"literal 0"}},
		{"objects of one name", makeTree("d/kustomization.yaml", "resources: [p.yaml, q.yaml]\n", "d/p.yaml", pod, "d/q.yaml", pod), "d/kustomization.yaml", []string{"may not add resource with an already registered id"}},
		{"Helm chart", makeTree("d/kustomization.yaml", "helmCharts: [{name: x, repo: 'https://charts.example'}]\n"), "d/kustomization.yaml", []string{"Helm charts inside"}},
		{"Helm chart, in capitals", makeTree("d/kustomization.yaml", "HELMCHARTS: [{name: x, repo: 'https://charts.example'}]\n"), "d/kustomization.yaml", []string{"Helm charts inside"}},
		{"Helm chart, old field", makeTree("d/kustomization.yaml", "helmChartInflationGenerator: [{chartName: x, chartRepoUrl: 'https://charts.example'}]\n"), "d/kustomization.yaml", []string{"Helm charts inside"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			objects, need, err := Kustomize(t.Context(), tc.files, "d", Limits{})
			if err == nil {
				t.Fatalf("no error; objects %q, need %q", where(objects), need)
			}
			wantError(t, err, tc.file, tc.reasons...)
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), root) {
				t.Errorf("error tells too much: %s", err)
			}
		})
	}
}

func TestKustomize_SecretsAreNotInErrors(t *testing.T) {
	for name, spec := range map[string]string{
		"key twice":      "secretGenerator: [{name: x, literals: [a=hunter2, a=hunter2]}]\n",
		"bad patch":      "resources: [p.yaml]\npatches: [{patch: 'password: hunter2', target: {kind: Pod}}]\n",
		"patch and path": "resources: [p.yaml]\npatches: [{path: p.yaml, patch: '{password: hunter2}'}]\n",
		"bad JSON patch": "resources: [p.yaml]\npatchesJson6902: [{patch: '{\"password\": \"hunter2\"}', target: {version: v1, kind: Pod, name: p}}]\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Kustomize(t.Context(), makeTree("kustomization.yaml", spec, "p.yaml", pod), "", Limits{})
			wantError(t, err, "kustomization.yaml")
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error is %q", err)
			}
		})
	}
}

func TestKustomize_DirectoryIsInsideTheRepository(t *testing.T) {
	for _, dir := range []string{"..", "../x", "/etc", "a/../..", "a//b"} {
		_, _, err := Kustomize(t.Context(), nil, dir, Limits{})
		wantError(t, err, "", "not a directory of a repository")
	}
}

func TestKustomize_Limits(t *testing.T) {
	files := makeTree("kustomization.yaml", "resources: [p.yaml]\nconfigMapGenerator: [{name: c, literals: [a=b]}]\n", "p.yaml", pod)
	_, _, err := Kustomize(t.Context(), files, "", Limits{Objects: 1})
	wantError(t, err, "kustomization.yaml", "more than 1 objects")
	_, _, err = Kustomize(t.Context(), files, "", Limits{FileBytes: 10})
	wantError(t, err, "kustomization.yaml", "limit on one file is 10")
	_, _, err = Kustomize(t.Context(), files, "", Limits{RenderedBytes: 350})
	wantError(t, err, "", "350 bytes")
}

// Directories that refer to two others each double what is built with every step.
func TestKustomize_BasesThatDouble(t *testing.T) {
	var files []File
	for i := range 60 {
		files = append(files, makeTree(
			fmt.Sprintf("d%d/l/kustomization.yaml", i), fmt.Sprintf("resources: [../../d%d/l, ../../d%d/r]\nnamePrefix: l\n", i+1, i+1),
			fmt.Sprintf("d%d/r/kustomization.yaml", i), fmt.Sprintf("resources: [../../d%d/l, ../../d%d/r]\nnamePrefix: r\n", i+1, i+1),
		)...)
	}
	files = append(files, makeTree("d60/l/kustomization.yaml", "namePrefix: x\n", "d60/r/kustomization.yaml", "namePrefix: x\n")...)
	_, _, err := Kustomize(t.Context(), files, "d0/l", Limits{}, "")
	wantError(t, err, "", "built more than 1000 times")
}

// One file of five megabytes, in a thousand entries of a generator.
func TestKustomize_FilesThatAreLoadedAgainAndAgain(t *testing.T) {
	var spec strings.Builder
	spec.WriteString("configMapGenerator:\n- name: big\n  files:\n")
	for i := range 1000 {
		fmt.Fprintf(&spec, "  - key%d=big.bin\n", i)
	}
	_, _, err := Kustomize(t.Context(), makeTree("kustomization.yaml", spec.String(), "big.bin", strings.Repeat("x", 5<<20)), "", Limits{})
	wantError(t, err, "big.bin", "loads more than")
}

func TestKustomize_EndsWithItsContext(t *testing.T) {
	files := makeTree("kustomization.yaml", "resources: [p.yaml]\n", "p.yaml", pod)
	kustomizing <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := Kustomize(ctx, files, "", Limits{})
	<-kustomizing
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrStuck) {
		t.Errorf("error while waiting is %v", err)
	}
	// What is stuck is given up, and keeps the library to itself until it ends.
	end := make(chan struct{})
	ctx, cancel = context.WithCancel(t.Context())
	started := make(chan struct{})
	result := make(chan error)
	go func() {
		result <- guard(ctx, "x", func() error {
			close(started)
			<-end
			return nil
		})
	}()
	<-started
	cancel()
	if err := <-result; !errors.Is(err, ErrStuck) || !errors.Is(err, context.Canceled) {
		t.Errorf("error of what is stuck is %v", err)
	}
	close(end)
}

func TestGuard_PanicIsAnError(t *testing.T) {
	err := guard(t.Context(), "a.yaml", func() error { panic("no such field") })
	wantError(t, err, "a.yaml", "no such field")
	// The library panics on an empty CRD.
	_, _, err = Kustomize(t.Context(), makeTree("kustomization.yaml", "resources: [p.yaml]\ncrds: [e.json]\n", "p.yaml", pod, "e.json", ""), "", Limits{})
	wantError(t, err, "", "")
	if _, _, err = Kustomize(t.Context(), makeTree("kustomization.yaml", "resources: [p.yaml]\n", "p.yaml", pod), "", Limits{}); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}
