package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"time"
)

// file is a regular file of an image, or a folder if mode has the bit of one. All belong to root.
type file struct {
	content []byte
	mode    int64
	folder  bool
}

// layer is a compressed tar.
type layer struct {
	// what it holds, for the history of the image.
	what string
	blob []byte
	// diffID is the digest of the tar before it was compressed.
	diffID string
}

// newLayer packs files by their path, which has no leading slash. The folders above them are added.
func newLayer(what string, files map[string]file, created time.Time) (layer, error) {
	all := map[string]file{}
	for name, f := range files {
		all[name] = f
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, there := files[dir]; !there {
				all[dir] = file{mode: 0o755, folder: true}
			}
		}
	}
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for _, name := range sortedKeys(all) {
		f := all[name]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.mode, Size: int64(len(f.content)), ModTime: created, Format: tar.FormatUSTAR}
		if f.folder {
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		}
		if err := out.WriteHeader(h); err != nil {
			return layer{}, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := out.Write(f.content); err != nil {
			return layer{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := out.Close(); err != nil {
		return layer{}, err
	}
	l := layer{what: what, diffID: digest(archive.Bytes())}
	var blob bytes.Buffer
	z := gzip.NewWriter(&blob)
	if _, err := z.Write(archive.Bytes()); err != nil {
		return layer{}, err
	}
	if err := z.Close(); err != nil {
		return layer{}, err
	}
	l.blob = blob.Bytes()
	return l, nil
}

func (l layer) descriptor() descriptor {
	return descriptor{MediaType: mediaLayer, Digest: digest(l.blob), Size: int64(len(l.blob))}
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}
