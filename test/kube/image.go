package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
)

// Image is a container image of one layer, made from files of this machine without registry or daemon.
type Image struct {
	// Name and tag, for example "local/web:1". Pods use it with imagePullPolicy IfNotPresent (the default unless the tag is latest).
	Name string
	// Entrypoint is the command line of its containers.
	Entrypoint []string
	// Files gives each path in the image the path of the file on this machine. They belong to root, mode 0755.
	Files map[string]string
	// Links gives each path in the image the target of a symbolic link.
	Links map[string]string
}

// Write makes a tarball of the image that Cluster.Import takes. The same files give the same bytes.
func (i Image) Write(file string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config":  map[string]any{"Entrypoint": i.Entrypoint, "Env": []string{"PATH=/bin"}, "WorkingDir": "/"},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
		"history": []map[string]string{{"created_by": "agentk test bed"}},
	})
	if err != nil {
		return err
	}
	sum = sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for _, entry := range []struct {
		name    string
		content []byte
	}{{"manifest.json", manifest}, {configName, config}, {"layer.tar", layer}} {
		if err := addFile(out, entry.name, 0o644, bytes.NewReader(entry.content), int64(len(entry.content))); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, archive.Bytes(), 0o644)
}

// layer is the file system of the image as a tar archive: a world-writable /tmp, then the files and links with their folders.
func (i Image) layer() ([]byte, error) {
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for _, name := range sortedKeys(i.Files) {
		if err := addFolders(out, done, name); err != nil {
			return nil, err
		}
		if err := addMachineFile(out, name, i.Files[name]); err != nil {
			return nil, err
		}
	}
	for _, name := range sortedKeys(i.Links) {
		if err := addFolders(out, done, name); err != nil {
			return nil, err
		}
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: inTar(name), Linkname: i.Links[name], Mode: 0o777}
		if err := out.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	err := out.Close()
	return layer.Bytes(), err
}

// addFolders adds the folders above a file that are not there yet.
func addFolders(out *tar.Writer, done map[string]bool, name string) error {
	dir := path.Dir(inTar(name))
	if dir == "." || done[dir] {
		return nil
	}
	done[dir] = true
	if err := addFolders(out, done, dir); err != nil {
		return err
	}
	return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func addMachineFile(out *tar.Writer, name, source string) error {
	file, err := os.Open(filepath.Clean(source))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return addFile(out, inTar(name), 0o755, file, info.Size())
}

func addFile(out *tar.Writer, name string, mode int64, content io.Reader, size int64) error {
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}

// inTar is a path of the image as tar archives name it.
func inTar(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
