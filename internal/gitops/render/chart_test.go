package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
)

const chartYAML1 = "apiVersion: v2\nname: c\nversion: 0.1.0\n"

// pack makes a packed chart of "path", "content", ...
func pack(t *testing.T, parts ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for i := 0; i < len(parts); i += 2 {
		if err := archive.WriteHeader(&tar.Header{Name: parts[i], Size: int64(len(parts[i+1])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(parts[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func renderTree(t *testing.T, values []string, parts ...string) (Release, error) {
	t.Helper()
	c := Chart{Dir: "d/c", ReleaseName: "rel", KubeVersion: kubeVersion}
	for _, v := range values {
		c.Values = append(c.Values, []byte(v))
	}
	for i := 0; i < len(parts); i += 2 {
		c.Files = append(c.Files, File{"d/c/" + parts[i], []byte(parts[i+1])})
	}
	c.Files = append(c.Files, makeTree("d/other.yaml", "{{ outside of the chart", "Chart.yaml", "name: other\n")...)
	return RenderChart(t.Context(), c, Limits{})
}

func TestRenderChart_ObjectsNameTheirTemplate(t *testing.T) {
	got, err := renderTree(t, nil, "Chart.yaml", chartYAML1, "crds/a.yaml", strings.Replace(configMap, "ConfigMap", "CustomResourceDefinition", 1)+"crd\n",
		"templates/b.yaml", configMap+"b\n---\n"+configMap+"b2\n", "charts/s/Chart.yaml", "name: s\nversion: 1.0.0\n", "charts/s/templates/s.yaml", configMap+"s\n",
		"templates/tests/t.yaml", configMap+"t\n  annotations: {helm.sh/hook: test-success}\n", "templates/NOTES.txt", "notes: [")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"d/c/crds/a.yaml:0 CustomResourceDefinition crd", "d/c/charts/s/templates/s.yaml:0 ConfigMap s",
		"d/c/templates/b.yaml:0 ConfigMap b", "d/c/templates/b.yaml:0 ConfigMap b2",
	}
	if diff := cmp.Diff(want, where(got.Objects)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"d/c/templates/tests/t.yaml: ConfigMap t"}, got.Tests); diff != "" {
		t.Error(diff)
	}
}

func TestRenderChart_LaterValuesWin(t *testing.T) {
	got, err := renderTree(t, []string{"a: {x: 1, u: 1}\nl: [1, 2]\n", "", "# nothing\n", "a: {u: 2, z: {w: 2}}\nl: [3]\nd: null\n"},
		"Chart.yaml", chartYAML1, "values.yaml", "a: {x: 0, v: 0}\nd: default\n", "templates/a.yaml", configMap+"a\ndata: {all: '{{ toJson .Values }}'}\n")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a":{"u":2,"v":0,"x":1,"z":{"w":2}},"l":[3]}`
	if diff := cmp.Diff(map[string]any{"all": want}, got.Objects[0].Object["data"]); diff != "" {
		t.Error(diff)
	}
	config := map[string]any{"a": map[string]any{"x": 1.0, "u": 2.0, "z": map[string]any{"w": 2.0}}, "l": []any{3.0}, "d": nil}
	if diff := cmp.Diff(config, got.Config); diff != "" {
		t.Error(diff)
	}
}

func TestRenderChart_Refuses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		values  []string
		files   []string
		file    string
		reasons []string
	}{
		{"no chart", nil, []string{"values.yaml", ""}, "d/c/Chart.yaml", []string{"not a file in this commit"}},
		{"Chart.yaml without a name", nil, []string{"Chart.yaml", "apiVersion: v2\nversion: 1.0.0\n"}, "d/c/Chart.yaml", []string{"name"}},
		{"Chart.yaml is not YAML", nil, []string{"Chart.yaml", "a: b\nc: d: e\n"}, "d/c/Chart.yaml", []string{"Chart.yaml:2"}},
		{"library", nil, []string{"Chart.yaml", chartYAML1 + "type: library\n"}, "d/c/Chart.yaml", []string{"library"}},
		{"Kubernetes is too old", nil, []string{"Chart.yaml", chartYAML1 + "kubeVersion: '>=1.99.0'\n"}, "d/c/Chart.yaml", []string{"1.99", kubeVersion}},
		{"dependency is missing", nil, []string{"Chart.yaml", chartYAML1 + "dependencies: [{name: redis, version: 1.x, repository: 'https://charts.example'}]\n"}, "d/c/Chart.yaml", []string{`"redis"`, "charts/", "nothing is downloaded"}},
		{"dependency in another version", nil, []string{"Chart.yaml", chartYAML1 + "dependencies: [{name: redis, version: 2.x}]\n", "charts/redis/Chart.yaml", "name: redis\nversion: 1.0.0\n"}, "d/c/Chart.yaml", []string{`"redis"`, "2.x", "1.0.0"}},
		{"values are not YAML", []string{"a: 1", "b: 1\na: b: c"}, []string{"Chart.yaml", chartYAML1}, "values[1]", []string{":2", "not YAML"}},
		{"values are a list", []string{"[a]"}, []string{"Chart.yaml", chartYAML1}, "values[0]", []string{"array"}},
		{"template that does not parse", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", "x\n{{ if }}\n"}, "d/c/templates/a.yaml", []string{"a.yaml:2"}},
		{"template that fails", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", "a\nb\n{{ fail \"no luck\" }}\n"}, "d/c/templates/a.yaml", []string{"a.yaml:3", "no luck"}},
		{"template of a sub-chart that fails", nil, []string{"Chart.yaml", chartYAML1, "charts/s/Chart.yaml", "name: s\nversion: 1.0.0\n", "charts/s/templates/a.yaml", "{{ required \"name it\" .Values.x }}\n"}, "d/c/charts/s/templates/a.yaml", []string{"a.yaml:1", "name it"}},
		{"template that makes no YAML", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", "a: b: c\n"}, "d/c/templates/a.yaml", []string{"YAML"}},
		{"template that makes no object", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", "kind: Pod\nmetadata: {name: x}\n"}, "d/c/templates/a.yaml", []string{"Pod x", "no apiVersion"}},
		{"environment", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", "{{ env \"PATH\" }}\n"}, "d/c/templates/a.yaml", []string{"env"}},
		{"hooks", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", configMap + "ok\n---\n" + configMap + "a\n  annotations: {helm.sh/hook: 'pre-install,Post-Upgrade'}\n", "templates/b.yaml", strings.Replace(configMap, "ConfigMap", "Job", 1) + "b\n  annotations: {helm.sh/hook: post-delete}\n"}, "d/c/Chart.yaml", []string{"d/c/templates/a.yaml: ConfigMap a (pre-install,post-upgrade)", "d/c/templates/b.yaml: Job b (post-delete)"}},
		{"hook that is a test among others", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", configMap + "a\n  annotations: {helm.sh/hook: 'test,post-install'}\n"}, "d/c/Chart.yaml", []string{"ConfigMap a"}},
		{"hook that Helm does not know", nil, []string{"Chart.yaml", chartYAML1, "templates/a.yaml", configMap + "a\n  annotations: {helm.sh/hook: crd-install}\n"}, "d/c/Chart.yaml", []string{"crd-install"}},
		{"schema", []string{"size: -1"}, []string{"Chart.yaml", chartYAML1, "values.schema.json", `{"properties": {"size": {"minimum": 0}}}`}, "d/c/values.schema.json", []string{"size", "minimum"}},
		{"schema of a sub-chart", []string{"s: {size: -1}"}, []string{"Chart.yaml", chartYAML1, "charts/s/Chart.yaml", "name: s\nversion: 1.0.0\n", "charts/s/values.schema.json", `{"properties": {"size": {"minimum": 0}}}`}, "d/c/charts/s/values.schema.json", []string{"size"}},
		{"schema is not JSON", nil, []string{"Chart.yaml", chartYAML1, "values.schema.json", `{`}, "d/c/values.schema.json", []string{"JSON"}},
		{"ignore file with double stars", nil, []string{"Chart.yaml", chartYAML1, ".helmignore", "a/**"}, "d/c/.helmignore", []string{"double-star"}},
		{"packed chart that is none", nil, []string{"Chart.yaml", chartYAML1, "charts/x.tgz", "../../secret"}, "d/c/charts/x.tgz", []string{"not a packed chart"}},
		{"packed chart that is cut", nil, []string{"Chart.yaml", chartYAML1, "charts/x.tgz", string(pack(t, "x/Chart.yaml", "name: x")[:40])}, "d/c/charts/x.tgz", []string{"not a packed chart"}},
		{"packed chart that leaves", nil, []string{"Chart.yaml", chartYAML1, "charts/x.tgz", string(pack(t, "x/../../Chart.yaml", "name: x\nversion: 1.0.0\n"))}, "d/c/Chart.yaml", []string{"parent directory"}},
		{"symbolic link as Git has it", nil, []string{"Chart.yaml", chartYAML1, "values.yaml", "../../../etc/passwd"}, "d/c/Chart.yaml", []string{"values.yaml"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := renderTree(t, tc.values, tc.files...)
			if err == nil {
				t.Fatalf("no error; objects %q", where(got.Objects))
			}
			wantError(t, err, tc.file, tc.reasons...)
		})
	}
	for _, c := range []Chart{
		{Dir: "../x", ReleaseName: "r", KubeVersion: kubeVersion},
		{ReleaseName: "No Name", KubeVersion: kubeVersion},
		{KubeVersion: kubeVersion},
	} {
		_, err := RenderChart(t.Context(), c, Limits{})
		wantError(t, err, "")
	}
}

// Schemas refer to others by URL, and by the path of a file on this machine.
func TestRenderChart_NothingIsFetchedOrStarted(t *testing.T) {
	o := watchOutside(t)
	for name, parts := range map[string][]string{
		"schema over HTTP":           {"values.schema.json", `{"$ref": "http://` + o.address + `/s.json"}`},
		"schema relative to its id":  {"values.schema.json", `{"$id": "http://` + o.address + `/a/", "properties": {"x": {"$ref": "s.json"}}}`},
		"meta schema":                {"values.schema.json", `{"$schema": "http://` + o.address + `/meta"}`},
		"schema in a file":           {"values.schema.json", `{"$ref": "file:///etc/passwd"}`},
		"schema in a file beside it": {"values.schema.json", `{"$ref": "other.json"}`},
		"schema of a sub-chart":      {"charts/s/Chart.yaml", "name: s\nversion: 1.0.0\n", "charts/s/values.yaml", "a: 1", "charts/s/values.schema.json", `{"$ref": "http://` + o.address + `/s.json"}`},
		"dependency over HTTP":       {"requirements.yaml", "dependencies: [{name: x, version: 1.0.0, repository: 'http://" + o.address + "'}]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := renderTree(t, nil, append([]string{"Chart.yaml", strings.Replace(chartYAML1, "v2", "v1", 1)}, parts...)...)
			wantError(t, err, "")
			if text := err.Error(); !strings.Contains(text, "only refer to itself") && !strings.Contains(text, "nothing is downloaded") {
				t.Errorf("error does not name the cause: %s", text)
			}
		})
	}
	got, err := renderTree(t, nil, "Chart.yaml", chartYAML1, "templates/a.yaml", configMap+"a\ndata:\n  host: '{{ getHostByName \"localhost\" }}'\n  found: '{{ lookup \"v1\" \"Secret\" \"\" \"\" | toJson }}'\n  file: '{{ .Files.Get \"/etc/passwd\" }}{{ .Files.Get \"../other.yaml\" }}'\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"host": "", "found": "{}", "file": ""}, got.Objects[0].Object["data"]); diff != "" {
		t.Error(diff)
	}
	if connections, started := o.seen(t); connections != 0 || len(started) > 0 {
		t.Errorf("%d connections, started %q", connections, started)
	}
}

func TestRenderChart_Limits(t *testing.T) {
	big := fmt.Sprintf("{{ range until 100 }}---\n%sx{{ . }}\ndata: {a: {{ repeat 1000 \"x\" }}}\n{{ end }}", configMap)
	c := Chart{Files: makeTree("Chart.yaml", chartYAML1, "templates/a.yaml", big), ReleaseName: "r", KubeVersion: kubeVersion}
	_, err := RenderChart(t.Context(), c, Limits{RenderedBytes: 50_000})
	wantError(t, err, "templates/a.yaml", "50000")
	_, err = RenderChart(t.Context(), c, Limits{Objects: 99})
	wantError(t, err, "templates/a.yaml", "99 objects")
	_, err = RenderChart(t.Context(), c, Limits{Objects: 100})
	if err != nil {
		t.Error(err)
	}
	nested := pack(t, "x/Chart.yaml", "name: x\nversion: 1.0.0\n")
	for range 9 {
		nested = pack(t, "x/charts/x.tgz", string(nested))
	}
	c.Files = append(makeTree("Chart.yaml", chartYAML1), File{"charts/x.tgz", nested})
	_, err = RenderChart(t.Context(), c, Limits{})
	wantError(t, err, "", "packed into charts")
}

// A template that computes on and on is given up. This one ends by itself after a while, for the test's sake.
func TestRenderChart_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := Chart{
		Files:       makeTree("Chart.yaml", chartYAML1, "templates/a.yaml", "{{ range until 300 }}{{ range until 1000 }}{{ end }}{{ end }}"),
		ReleaseName: "r", KubeVersion: kubeVersion,
	}
	_, err := RenderChart(ctx, c, Limits{})
	if !errors.Is(err, ErrStuck) || !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want ErrStuck", err)
	}
	deadline := time.Now().Add(time.Minute)
	stacks := make([]byte, 1<<20)
	for strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "render.guard.func") {
		if time.Now().After(deadline) {
			t.Fatal("the template did not end")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Helm's own storage takes the record and gives it back.
func TestRelease_RecordIsReadByHelm(t *testing.T) {
	got, err := renderTree(t, []string{"a: 1"}, "Chart.yaml", chartYAML1+"appVersion: '7'\n", "values.yaml", "a: 0\nb: 0\n", "templates/a.yaml", configMap+"a\n",
		"crds/c.yaml", configMap+"crd\n", "config/big.txt", "xxx")
	if err != nil {
		t.Fatal(err)
	}
	first, last := time.Unix(1_700_000_000, 0).UTC(), time.Unix(1_800_000_000, 0).UTC()
	memory := storage.Init(driver.NewMemory())
	for revision, status := range []release.Status{release.StatusSuperseded, release.StatusDeployed} {
		if err := memory.Create(got.Record(revision+1, status, "synchronised", first, last)); err != nil {
			t.Fatal(err)
		}
	}
	history, err := memory.History("rel")
	if err != nil || len(history) != 2 {
		t.Fatalf("history has %d revisions, error %v", len(history), err)
	}
	deployed, err := memory.Deployed("rel")
	if err != nil {
		t.Fatal(err)
	}
	if deployed.Version != 2 || deployed.Namespace != "default" || deployed.Chart.Metadata.Version != "0.1.0" || deployed.Chart.Metadata.AppVersion != "7" ||
		!deployed.Info.LastDeployed.Time.Equal(last) || deployed.Config["a"] != 1.0 || deployed.Chart.Values["b"] != 0.0 {
		t.Errorf("release is %+v", deployed)
	}
	if want := "---\n# Source: c/templates/a.yaml\n" + configMap + "a\n"; deployed.Manifest != want {
		t.Errorf("manifest is %q, want %q", deployed.Manifest, want)
	}
}
