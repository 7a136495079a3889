package render

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// outside notices connections and child processes. Every program that a library might start is a script that leaves a mark.
type outside struct {
	address     string
	connections atomic.Int64
	marks       string
}

func watchOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{marks: t.TempDir()}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			o.connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	o.address = server.Listener.Addr().String()
	bin := t.TempDir()
	for _, name := range []string{"git", "helm", "helmV3", "kustomize", "docker", "podman", "ssh", "curl", "sh", "bash", "Plugin"} {
		script := fmt.Sprintf("#!/bin/sh\n: > %s/%s\nexit 1\n", o.marks, name)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("KUSTOMIZE_PLUGIN_HOME", bin)
	return o
}

// seen says what has happened since the last call.
func (o *outside) seen(t *testing.T) (connections int64, started []string) {
	t.Helper()
	entries, err := os.ReadDir(o.marks)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		started = append(started, entry.Name())
		if err := os.Remove(filepath.Join(o.marks, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return o.connections.Swap(0), started
}

// The libraries, left to themselves, do go outside: what the tests below do not see would be seen.
func TestOutside_IsSeenWhenTheLibraryGoesThere(t *testing.T) {
	o := watchOutside(t)
	for _, ref := range []string{"http://" + o.address + "/x.yaml", "git@" + o.address + ":a/b", "github.com/a/b?ref=main"} {
		fs := filesys.MakeFsInMemory()
		if err := fs.WriteFile("/r/kustomization.yaml", []byte("resources: ['"+ref+"']\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, "/r"); err == nil {
			t.Errorf("%s: no error", ref)
		}
		if connections, started := o.seen(t); connections == 0 && len(started) == 0 {
			t.Errorf("%s was not seen", ref)
		}
		http.DefaultClient.CloseIdleConnections()
	}
}

// remoteFields are all places of a kustomization that name something, %s.
var remoteFields = map[string]string{
	"resources":         "resources: [%s]\n",
	"resources, case":   "RESOURCES: [%s]\n",
	"bases":             "bases: [%s]\n",
	"components":        "components: [%s]\n",
	"crds":              "crds: [%s]\n",
	"configurations":    "configurations: [%s]\n",
	"openapi":           "openapi: {path: %s}\n",
	"patches":           "patches: [{path: %s}]\n",
	"json patches":      "patchesJson6902: [{path: %s, target: {kind: Pod, name: p}}]\n",
	"merge patches":     "patchesStrategicMerge: [%s]\n",
	"replacements":      "replacements: [{path: %s}]\n",
	"config map files":  "configMapGenerator: [{name: x, files: [%s]}]\n",
	"config map envs":   "configMapGenerator: [{name: x, envs: [%s]}]\n",
	"config map env":    "configMapGenerator: [{name: x, env: %s}]\n",
	"secret files":      "secretGenerator: [{name: x, files: [%s]}]\n",
	"generators":        "generators: [%s]\n",
	"transformers":      "transformers: [%s]\n",
	"validators":        "validators: [%s]\n",
	"in a base":         "resources: [../base]\n",
	"in a component":    "components: [../component]\n",
	"in a plugin's dir": "transformers: [../plugins]\n",
	"in a plugin":       "transformers: [plugin.yaml]\n",
	"in an inline one":  "transformers: [\"{apiVersion: builtin, kind: PatchTransformer, metadata: {name: p}, path: '%s'}\"]\n",
	"in a generator":    "generators: [generator.yaml]\n",
}

// remoteTree is what the kustomization uses, with the same name in it.
var remoteTree = []string{
	"r/base/kustomization.yaml", "resources: [%s]\n",
	"r/component/kustomization.yaml", "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\npatches: [{path: %s}]\n",
	"r/plugins/kustomization.yaml", "resources: [%s]\n",
	"r/top/plugin.yaml", "apiVersion: builtin\nkind: ReplacementTransformer\nmetadata: {name: p}\nREPLACEMENTS: [{path: %s}]\n",
	"r/top/generator.yaml", "apiVersion: builtin\nkind: SecretGenerator\nmetadata: {name: p}\nfiles: [%s]\n",
	"r/top/p.yaml", pod,
	// What looks remote stays so when the tree has it, and what follows a "=" is no file of its own.
	"r/top/github.com/a/b/kustomization.yaml", "resources: []\n", "r/top/user@host.example/a/b/kustomization.yaml", "resources: []\n",
	"r/base/github.com/a/b/kustomization.yaml", "resources: []\n", "r/top/main", "x", "r/top/v1", "x",
}

func TestKustomize_NothingIsFetchedOrStarted(t *testing.T) {
	o := watchOutside(t)
	const isRemote, isAbsolute, leaves = "is remote", "is an absolute path", "leaves the repository"
	refs := map[string]string{
		"http://" + o.address + "/x.yaml": isRemote, "HTTP://" + o.address + "/x.yaml": isRemote, "https://" + o.address + "/a/b?ref=main": isRemote,
		"http:" + o.address: isRemote, "git::http://" + o.address + "/a/b": isRemote, "GIT::https://github.com/a/b": isRemote, "git::github.com/a/b": isRemote,
		"ssh://git@" + o.address + "/a/b.git": isRemote, "git@" + o.address + ":a/b.git": isRemote, "user@host.example/a/b": isRemote,
		"github.com/a/b": isRemote, "GitHub.com/a/b//c?ref=v1": isRemote, "github.com:a/b.git": isRemote, "git@github.com:a/b": isRemote,
		"file:///etc": isRemote, "FILE://" + t.TempDir(): isRemote, "git://" + o.address + "/a/b": isRemote, "s3://bucket/x": isRemote,
		"oci://" + o.address + "/x": isRemote, "host.example/a/b?ref=main": isRemote, "host.example/a/b.git?timeout=90s&ref=main": isRemote,
		"/etc/passwd": isAbsolute, "/etc": isAbsolute, "//" + o.address + "/x": isAbsolute,
		"../../../x": leaves, "../../../../etc/passwd": leaves, "a/../../../../etc": leaves,
	}
	for field, spec := range remoteFields {
		t.Run(field, func(t *testing.T) {
			for ref, reason := range refs {
				parts := append([]string{"r/top/kustomization.yaml", "namePrefix: a\n" + spec}, remoteTree...)
				for i := 1; i < len(parts); i += 2 {
					quoted := "'" + ref + "'"
					if strings.Contains(parts[i], "'%s'") {
						quoted = ref
					}
					parts[i] = strings.ReplaceAll(parts[i], "%s", quoted)
				}
				objects, need, err := Kustomize(t.Context(), makeTree(parts...), "r/top", Limits{}, "")
				if err == nil {
					t.Errorf("%s: no error; objects %q, need %q", ref, where(objects), need)
					continue
				}
				wantError(t, err, "", "r/", reason)
			}
			if connections, started := o.seen(t); connections != 0 || len(started) > 0 {
				t.Fatalf("%d connections, started %q", connections, started)
			}
		})
	}
}

func TestKustomize_OnlyBuiltinPluginsRun(t *testing.T) {
	o := watchOutside(t)
	for _, tc := range []struct{ name, plugin, reason string }{
		{"program", "apiVersion: example.com/v1\nkind: Plugin\nmetadata: {name: p}\n", "a plugin of its own"},
		{"function in a container", "apiVersion: v1\nkind: F\nmetadata: {name: p, annotations: {config.kubernetes.io/function: 'container: {image: x}'}}\n", "is a function"},
		{"function that runs a program", "apiVersion: builtin\nkind: PrefixTransformer\nmetadata: {name: p, annotations: {config.kubernetes.io/function: 'exec: {path: ./x}'}}\n", "is a function"},
		{"old function", "apiVersion: v1\nkind: F\nmetadata: {name: p, annotations: {config.k8s.io/function: 'starlark: {path: x}'}}\n", "is a function"},
		{"Helm", "apiVersion: builtin\nkind: HelmChartInflationGenerator\nmetadata: {name: p}\nname: x\nrepo: http://" + o.address + "\n", "downloads charts"},
		{"none that there is", "apiVersion: builtin\nkind: Plugin\nmetadata: {name: p}\n", "not a plugin that kustomize has"},
		{"second in a file", "apiVersion: builtin\nkind: HashTransformer\nmetadata: {name: h}\n---\napiVersion: example.com/v1\nkind: Plugin\nmetadata: {name: p}\n", "a plugin of its own"},
		{"in a list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: example.com/v1, kind: Plugin, metadata: {name: p}}\n", "a plugin of its own"},
	} {
		for _, field := range []string{"generators", "transformers", "validators"} {
			t.Run(tc.name+" in "+field, func(t *testing.T) {
				for _, how := range []string{": [plugins/p.yaml]\n", ": [plugins]\n", ":\n- |\n  " + strings.ReplaceAll(tc.plugin, "\n", "\n  ") + "\n"} {
					files := makeTree("kustomization.yaml", "resources: [pod.yaml]\n"+field+how, "pod.yaml", pod,
						"plugins/kustomization.yaml", "resources: [p.yaml]\n", "plugins/p.yaml", tc.plugin)
					_, _, err := Kustomize(t.Context(), files, "", Limits{})
					wantError(t, err, "", tc.reason)
				}
			})
		}
	}
	// A kustomization could make a plugin's configuration that stands in no file.
	files := makeTree("kustomization.yaml", "resources: [pod.yaml]\ntransformers: [plugins]\n", "pod.yaml", pod,
		"plugins/kustomization.yaml", "resources: [p.yaml]\npatches: [{patch: '[{op: replace, path: /path, value: \"http://"+o.address+"/x\"}]', target: {kind: PatchTransformer}}]\n",
		"plugins/p.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npath: pod.yaml\n")
	_, _, err := Kustomize(t.Context(), files, "", Limits{})
	wantError(t, err, "plugins/kustomization.yaml", "resources and nothing else")
	if connections, started := o.seen(t); connections != 0 || len(started) > 0 {
		t.Errorf("%d connections, started %q", connections, started)
	}
}

// bomb grows to 10^n values.
func bomb(n int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), i-1)
	}
	return b.String()
}

// allocates fails when f allocates more than the given megabytes.
func allocates(t *testing.T, megabytes uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > megabytes {
		t.Errorf("allocated %d MB, want at most %d", got, megabytes)
	}
}

func TestAliasBombs(t *testing.T) {
	object := configMap + "a\n" + bomb(9)
	long := configMap + "a\ndata:\n  a: &a " + strings.Repeat("x", 1<<20) + "\n  b: [" + strings.Repeat("*a, ", 1000) + "]\n"
	many := strings.Repeat(configMap+"a\n"+bomb(5)+"---\n", 1000)
	indented := strings.ReplaceAll(object, "\n", "\n    ")
	for name, files := range map[string][]File{
		"manifest":                 makeTree("b.yaml", object),
		"manifest, long text":      makeTree("b.yaml", long),
		"manifest, many small":     makeTree("b.yaml", many),
		"kustomization":            makeTree("kustomization.yaml", bomb(9)),
		"resource":                 makeTree("kustomization.yaml", "resources: [b.yaml]", "b.yaml", object),
		"patch":                    makeTree("kustomization.yaml", "patches: [{path: b.yaml}]", "b.yaml", object),
		"inline patch":             makeTree("kustomization.yaml", "patches:\n- patch: |\n    "+indented+"\n"),
		"inline JSON patch":        makeTree("kustomization.yaml", "patchesJson6902:\n- target: {kind: Pod, name: p}\n  patch: |\n    "+indented+"\n"),
		"inline merge patch":       makeTree("kustomization.yaml", "patchesStrategicMerge:\n- |\n    "+indented+"\n"),
		"inline transformer":       makeTree("kustomization.yaml", "transformers:\n- |\n    "+indented+"\n"),
		"transformer":              makeTree("kustomization.yaml", "transformers: [b.yaml]", "b.yaml", object),
		"patch in a transformer":   makeTree("kustomization.yaml", "transformers: [t.yaml]", "t.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npatch: |\n    "+indented+"\n"),
		"patch of a transformer":   makeTree("kustomization.yaml", "transformers: [t.yaml]", "t.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npath: b.yaml\n", "b.yaml", object),
		"replacement":              makeTree("kustomization.yaml", "replacements: [{path: b.yaml}]", "b.yaml", bomb(9)),
		"configuration":            makeTree("kustomization.yaml", "configurations: [b.yaml]", "b.yaml", bomb(9)),
		"schema":                   makeTree("kustomization.yaml", "openapi: {path: b.yaml}", "b.yaml", bomb(9)),
		"values of a chart":        makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n", "values.yaml", bomb(9)),
		"Chart.yaml":               makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n"+bomb(9)),
		"values of a sub-chart":    makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n", "charts/x/Chart.yaml", "name: x\nversion: 0.1.0\n", "charts/x/values.yaml", bomb(9)),
		"values of a packed chart": append(makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n"), File{"charts/x.tgz", pack(t, "x/values.yaml", bomb(9))}),
		"object of a chart":        makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n", "templates/b.yaml", object),
		"CRD of a chart":           makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n", "crds/b.yaml", object),
		"unpacked file of a chart": append(makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n"), File{"charts/x.tgz", pack(t, "x/big", strings.Repeat("\x00", 5<<20), "x/big2", strings.Repeat("\x00", 5<<20), "x/big3", strings.Repeat("\x00", 5<<20), "x/big4", strings.Repeat("\x00", 5<<20))}),
	} {
		t.Run(name, func(t *testing.T) {
			allocates(t, 200, func() {
				var err error
				switch files[0].Path {
				case "kustomization.yaml":
					_, _, err = Kustomize(t.Context(), files, "", Limits{})
				case "Chart.yaml":
					_, err = RenderChart(t.Context(), Chart{Files: files, ReleaseName: "r", KubeVersion: kubeVersion}, Limits{})
				default:
					_, err = Manifests(files, Limits{})
				}
				if err == nil {
					t.Fatal("no error")
				}
				wantError(t, err, "")
				if text := err.Error(); !strings.Contains(text, "limit") && !strings.Contains(text, "excessive aliasing") {
					t.Errorf("error does not name the cause: %s", text)
				}
			})
		})
	}
	_, err := RenderChart(t.Context(), Chart{
		Files: makeTree("Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n"), ReleaseName: "r", KubeVersion: kubeVersion, Values: [][]byte{nil, []byte(bomb(9))},
	}, Limits{})
	wantError(t, err, "values[1]", "limit")
}

// A document of nothing but values takes far more memory parsed than as text.
func TestManyValuesInOneDocument(t *testing.T) {
	for name, text := range map[string]string{
		"flow":    configMap + "a\ndata: [" + strings.Repeat("a,", 2<<20) + "]\n",
		"nested":  strings.Repeat("- ", 2<<20),
		"JSON":    `{"a":[` + strings.Repeat("1,", 2<<20) + "1]}",
		"opening": strings.Repeat("[", 4<<20),
		"keys":    strings.Repeat("? ", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			allocates(t, 30, func() {
				_, err := Manifests(makeTree("a.yaml", text), Limits{})
				wantError(t, err, "a.yaml", "split it")
			})
		})
	}
}

// A gigabyte that exists only as a length is refused without being read.
func TestSparseGigabyte(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "big.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	data, err := syscall.Mmap(int(file.Fd()), 0, 1<<30, syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Munmap(data); err != nil {
			t.Error(err)
		}
	}()
	big := File{"big.yaml", data}
	resident := residentPages(t)
	allocates(t, 5, func() {
		_, err := Manifests([]File{big}, Limits{})
		wantError(t, err, "big.yaml", "1073741824 bytes", "5242880")
		_, _, err = Kustomize(t.Context(), append(makeTree("kustomization.yaml", "resources: [big.yaml]"), big), "", Limits{})
		wantError(t, err, "big.yaml", "5242880")
		_, err = RenderChart(t.Context(), Chart{Files: []File{big}, ReleaseName: "r", KubeVersion: kubeVersion}, Limits{})
		wantError(t, err, "big.yaml", "5242880")
		_, err = RenderChart(t.Context(), Chart{ReleaseName: "r", KubeVersion: kubeVersion, Values: [][]byte{data}}, Limits{})
		wantError(t, err, "values[0]", "5242880")
	})
	if grown := (residentPages(t) - resident) * os.Getpagesize(); grown > 100<<20 {
		t.Errorf("the process grew by %d bytes", grown)
	}
}

func residentPages(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident
}

func TestTwentyThousandFiles(t *testing.T) {
	files := makeTree("kustomization.yaml", "resources: [f0.yaml]\n", "Chart.yaml", "name: c\nversion: 0.1.0\napiVersion: v2\n")
	for i := range 20_000 {
		files = append(files, File{fmt.Sprintf("f%d.yaml", i), []byte(pod)})
	}
	allocates(t, 5, func() {
		_, err := Manifests(files, Limits{})
		wantError(t, err, "f998.yaml", "limit on files, 1000")
		_, _, err = Kustomize(t.Context(), files, "", Limits{})
		wantError(t, err, "f998.yaml", "limit on files, 1000")
		_, err = RenderChart(t.Context(), Chart{Files: files, ReleaseName: "r", KubeVersion: kubeVersion}, Limits{})
		wantError(t, err, "f998.yaml", "limit on files, 1000")
	})
}
