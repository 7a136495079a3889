package main

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Media types of the OCI image specification.
const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platformJSON     `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platformJSON struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

type indexFile struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type manifestFile struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type configFile struct {
	Created      string          `json:"created"`
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Variant      string          `json:"variant,omitempty"`
	Config       containerConfig `json:"config"`
	RootFS       rootFS          `json:"rootfs"`
	History      []history       `json:"history"`
}

type containerConfig struct {
	User         string              `json:"User"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env"`
	Entrypoint   []string            `json:"Entrypoint"`
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

// layout is an OCI image layout while it grows.
type layout struct{ blobs map[string][]byte }

func newLayout() *layout { return &layout{blobs: map[string][]byte{}} }

func (l *layout) addLayer(part layer) { l.blobs[digest(part.blob)] = part.blob }

func (l *layout) addJSON(mediaType string, v any) (descriptor, error) {
	content, err := toJSON(v)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: int64(len(content))}
	l.blobs[d.Digest] = content
	return d, nil
}

// write makes the tar. The name is in the annotation that containerd reads; the tag alone is in OCI's own.
func (l *layout) write(target, reference string, index descriptor) error {
	_, tag, _ := strings.Cut(filepath.Base(reference), ":")
	index.Annotations = map[string]string{"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}
	top, err := toJSON(indexFile{SchemaVersion: 2, MediaType: mediaIndex, Manifests: []descriptor{index}})
	if err != nil {
		return err
	}
	files := map[string][]byte{"index.json": top, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for d, content := range l.blobs {
		files["blobs/"+strings.Replace(d, ":", "/", 1)] = content
	}
	return writeAtomically(target, func(out *tar.Writer) error {
		for _, name := range sortedKeys(files) {
			content := files[name]
			h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatUSTAR}
			if err := out.WriteHeader(h); err != nil {
				return err
			}
			if _, err := out.Write(content); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeAtomically never leaves half a tar behind under the final name.
func writeAtomically(target string, fill func(*tar.Writer) error) error {
	temporary, err := os.CreateTemp(filepath.Dir(target), filepath.Base(target)+".")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temporary.Name()) }() // gone after the rename
	out := tar.NewWriter(temporary)
	if err = fill(out); err == nil {
		err = out.Close()
	}
	if err == nil {
		err = temporary.Chmod(0o644)
	}
	if closed := temporary.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", target, err)
	}
	return os.Rename(temporary.Name(), target)
}
