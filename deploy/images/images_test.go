package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tiny writes a checkout with one small program per command, and returns its root.
func tiny(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	mod := read(t, "../../go.mod")
	require := regexp.MustCompile(`(?m)^\s+` + regexp.QuoteMeta(rootsModule) + ` (\S+)`).FindSubmatch(mod)
	if require == nil {
		t.Fatal("go.mod does not name the module of the CA bundle")
	}
	write(t, root, "go.mod", "module gitlab.com/agentk/agentk\n\ngo 1.26.0\n\nrequire "+rootsModule+" "+string(require[1])+"\n")
	write(t, root, "go.sum", string(read(t, "../../go.sum")))
	write(t, root, "LICENSE", "free")
	for _, i := range catalogue() {
		for _, command := range i.commands {
			write(t, root, "cmd/"+command+"/main.go", "package main\n\nfunc main() { println(\""+command+"\") }\n")
		}
	}
	return root
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// build runs the program and returns the folder of its output.
func build(t *testing.T, source string, args ...string) string {
	t.Helper()
	out := t.TempDir()
	epoch := func(name string) string { return map[string]string{"SOURCE_DATE_EPOCH": "1700000000"}[name] }
	if err := run(t.Context(), append([]string{"-source", source, "-out", out}, args...), epoch, io.Discard); err != nil {
		t.Fatal(err)
	}
	return out
}

// untar returns the files of an archive by their names.
func untar(t *testing.T, archive io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for in := tar.NewReader(archive); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

// opened is an image read back from its tar, every digest checked.
type opened struct {
	blobs     map[string][]byte
	top       indexFile
	manifests []manifestFile
	configs   []configFile
	// files are those of all layers, of the platform at the same place; bytes is the size of the layers before compression.
	files []map[string][]byte
	bytes []int
}

func open(t *testing.T, path string) opened {
	t.Helper()
	o := opened{blobs: untar(t, bytes.NewReader(read(t, path)))}
	decode(t, o.blobs["index.json"], &o.top)
	var index indexFile
	decode(t, o.blob(t, o.top.Manifests[0]), &index)
	for n, d := range index.Manifests {
		var m manifestFile
		var c configFile
		decode(t, o.blob(t, d), &m)
		decode(t, o.blob(t, m.Config), &c)
		files, size := map[string][]byte{}, 0
		for k, l := range m.Layers {
			z, err := gzip.NewReader(bytes.NewReader(o.blob(t, l)))
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			if got := digest(content); got != c.RootFS.DiffIDs[k] {
				t.Errorf("layer %d has diff id %s, not %s", k, got, c.RootFS.DiffIDs[k])
			}
			size += len(content)
			for name, f := range untar(t, bytes.NewReader(content)) {
				files[name] = f
			}
		}
		if d.Platform == nil || d.Platform.Architecture != c.Architecture || d.Platform.Variant != c.Variant {
			t.Errorf("platform %d: index says %v, configuration %s %s", n, d.Platform, c.Architecture, c.Variant)
		}
		o.manifests, o.configs = append(o.manifests, m), append(o.configs, c)
		o.files, o.bytes = append(o.files, files), append(o.bytes, size)
	}
	return o
}

func (o opened) blob(t *testing.T, d descriptor) []byte {
	t.Helper()
	content, there := o.blobs["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	if !there || digest(content) != d.Digest || int64(len(content)) != d.Size {
		t.Fatalf("blob %s: there %t, %d bytes", d.Digest, there, len(content))
	}
	return content
}

func decode(t *testing.T, content []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in %s", err, content)
	}
}

func TestBuild_SameBytesFromAnotherFolder(t *testing.T) {
	args := []string{"-platforms", "linux/amd64,linux/arm/v7"}
	one, two := build(t, tiny(t), args...), build(t, tiny(t), args...)
	entries, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		if !bytes.Equal(read(t, filepath.Join(one, e.Name())), read(t, filepath.Join(two, e.Name()))) {
			t.Errorf("%s differs", e.Name())
		}
	}
	want := []string{
		"agentk-linux-amd64.spdx.json", "agentk-linux-arm-v7.spdx.json", "agentk.digest", "agentk.tar",
		"kas-linux-amd64.spdx.json", "kas-linux-arm-v7.spdx.json", "kas.digest", "kas.tar",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestBuild_Contents(t *testing.T) {
	out := build(t, tiny(t), "-platforms=linux/amd64,linux/arm/v7", "-images=agentk", "-version=v1.2.3", "-registry=local/x")
	o := open(t, filepath.Join(out, "agentk.tar"))
	if got := o.top.Manifests[0].Annotations["io.containerd.image.name"]; got != "local/x/agentk:v1.2.3" {
		t.Error("name:", got)
	}
	if got := string(read(t, filepath.Join(out, "agentk.digest"))); got != o.top.Manifests[0].Digest+"\n" {
		t.Error("digest:", got)
	}
	if len(o.configs) != 2 || o.configs[1].Architecture != "arm" || o.configs[1].Variant != "v7" {
		t.Fatal("platforms:", o.configs)
	}
	c := o.configs[0]
	labels := c.Config.Labels
	c.Config.Labels, c.RootFS, c.History = nil, rootFS{}, nil
	want := configFile{
		Created: "2023-11-14T22:13:20Z", Architecture: "amd64", OS: "linux",
		Config: containerConfig{
			User: "65532:65532", ExposedPorts: map[string]struct{}{"8080/tcp": {}}, Env: []string{"PATH=/usr/bin"},
			Entrypoint: []string{"/usr/bin/agentk"}, WorkingDir: "/",
		},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	if labels["org.opencontainers.image.version"] != "v1.2.3" || labels["org.opencontainers.image.title"] != "agentk" {
		t.Error("labels:", labels)
	}
	for _, name := range []string{"etc/passwd", "etc/group", "usr/share/doc/agentk/LICENSE", "tmp/", "home/nonroot/", "usr/", "usr/bin/"} {
		if _, there := o.files[0][name]; !there {
			t.Errorf("%s is missing", name)
		}
	}
	bill := o.files[0]["usr/share/sbom/agentk.spdx.json"]
	if !bytes.Equal(bill, read(t, filepath.Join(out, "agentk-linux-amd64.spdx.json"))) {
		t.Error("the bill in the image is not the one beside it")
	}
	checkBill(t, bill, o.files[0]["usr/bin/agentk"])
}

// checkBill holds a bill of materials against the format's rules and against the binary it is about.
func checkBill(t *testing.T, bill, binary []byte) spdx {
	t.Helper()
	var doc spdx
	decode(t, bill, &doc)
	ids := map[string]bool{documentID: true}
	for _, p := range doc.Packages {
		if ids[p.ID] || !regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`).MatchString(p.ID) || p.Name == "" || p.Version == "" {
			t.Errorf("package %+v", p)
		}
		ids[p.ID] = true
	}
	for _, r := range doc.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("relationship %+v names what is not there", r)
		}
	}
	if got := "sha256:" + doc.Packages[0].Checksums[0].Value; got != digest(binary) {
		t.Errorf("bill is about %s, the binary is %s", got, digest(binary))
	}
	for _, want := range []string{"pkg:golang/stdlib@", "pkg:golang/" + rootsModule + "@v0"} {
		if !bytes.Contains(bill, []byte(want)) {
			t.Errorf("bill does not name %s", want)
		}
	}
	return doc
}

func TestBuild_Created(t *testing.T) {
	source := tiny(t)
	one := build(t, source, "-platforms=linux/amd64", "-images=kas")
	two := t.TempDir()
	later := func(name string) string { return map[string]string{"SOURCE_DATE_EPOCH": "1700000001"}[name] }
	err := run(t.Context(), []string{"-source", source, "-out", two, "-platforms=linux/amd64", "-images=kas"}, later, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, filepath.Join(one, "kas.tar")), read(t, filepath.Join(two, "kas.tar"))) {
		t.Error("the time stamp is not in the image: the comparison of two builds could not fail")
	}
}

func TestBadArguments(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"platform":           {[]string{"-platforms=linux/vax"}, nil, `platform "linux/vax"`},
		"platform of nobody": {nil, map[string]string{"PLATFORMS": "windows/amd64"}, `platform "windows/amd64"`},
		"image":              {[]string{"-images=nope"}, nil, `there is no image "nope", there are ["kas" "agentk"]`},
		"argument":           {[]string{"nope"}, nil, `unknown argument "nope"`},
		"flag":               {[]string{"-nope"}, nil, "flag provided but not defined"},
		"time stamp":         {nil, map[string]string{"SOURCE_DATE_EPOCH": "yesterday"}, "SOURCE_DATE_EPOCH"},
		"version":            {[]string{"-version=a b"}, nil, `version "a b"`},
		"source":             {[]string{"-source=/nonexistent"}, nil, "base layer: open /nonexistent/LICENSE"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-out", t.TempDir()}, tc.args...)
			err := run(t.Context(), args, func(name string) string { return tc.env[name] }, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestBuild_BrokenSource(t *testing.T) {
	source := tiny(t)
	write(t, source, "cmd/kas/main.go", "package main\n\nfunc main() { nope() }\n")
	out := t.TempDir()
	err := run(t.Context(), []string{"-source", source, "-out", out, "-platforms=linux/amd64"}, os.Getenv, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "image kas: linux/amd64: compile kas") || !strings.Contains(err.Error(), "undefined: nope") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(out, "*.tar*")); len(left) > 0 {
		t.Error("a broken build leaves", left)
	}
}

func TestCertificates(t *testing.T) {
	content, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !c.IsCA || c.NotAfter.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Error("not a root to trust:", c.Subject)
		}
		count++
	}
	if count < 100 {
		t.Errorf("only %d certificates", count)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(content) {
		t.Error("Go does not take the bundle")
	}
}

// The Dockerfiles are for those who prefer them, and no second opinion on what an image is.
func TestDockerfiles_SayTheSame(t *testing.T) {
	for _, i := range catalogue() {
		text := string(read(t, "../Dockerfile."+i.name))
		ports := strings.Trim(strings.ReplaceAll(fmt.Sprint(i.ports), ",", ""), "[]")
		want := []string{
			"\nFROM scratch\n", "\nUSER " + user + "\n", "\nEXPOSE " + ports + "\n",
			"\nENTRYPOINT [\"/usr/bin/" + i.commands[0] + "\"]\n", "image.title=\"" + i.name + "\"", "image.description=\"" + i.description + "\"",
		}
		for _, command := range i.commands {
			want = append(want, "/usr/bin/"+command+" ./cmd/"+command+"\n")
		}
		for _, line := range want {
			if !strings.Contains(text, line) {
				t.Errorf("Dockerfile.%s lacks %q", i.name, line)
			}
		}
	}
}
