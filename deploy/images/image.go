package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// projectURL is where the source is.
	projectURL = "https://gitlab.com/agentk/agentk"
	// user is nonroot of distroless images, and the user of the stock images: volumes keep their owners.
	user = "65532:65532"
)

// image is one image. Its tar, its tag and its bill of materials carry its name.
type image struct {
	name, description string
	// commands are folders of cmd. Each becomes /usr/bin/<command>; the first one is the entry point.
	commands []string
	ports    []int
}

func catalogue() []image {
	return []image{
		{
			name: "kas", description: "Server of the GitLab agent for Kubernetes", commands: []string{"kas"},
			ports: []int{8150, 8151, 8153, 8154, 8155},
		},
		{
			name: "agentk", description: "GitLab agent for Kubernetes", commands: []string{"agentk", "agentk-gitops"},
			ports: []int{8080},
		},
	}
}

func find(name string) (image, error) {
	var names []string
	for _, i := range catalogue() {
		if i.name == name {
			return i, nil
		}
		names = append(names, i.name)
	}
	return image{}, fmt.Errorf("there is no image %q, there are %q", name, names)
}

// build writes the image for all platforms as one tar, with a bill of materials for each beside it, and returns the digest of its index.
func (s settings) build(ctx context.Context, i image, base layer) (string, error) {
	l := newLayout()
	l.addLayer(base)
	var manifests []descriptor
	for _, p := range s.platforms {
		m, err := s.addPlatform(ctx, l, i, p, base)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p, err)
		}
		manifests = append(manifests, m)
	}
	index, err := l.addJSON(mediaIndex, indexFile{SchemaVersion: 2, MediaType: mediaIndex, Manifests: manifests, Annotations: s.labels(i)})
	if err != nil {
		return "", err
	}
	if err := l.write(filepath.Join(s.out, i.name+".tar"), s.reference(i), index); err != nil {
		return "", err
	}
	return index.Digest, os.WriteFile(filepath.Join(s.out, i.name+".digest"), []byte(index.Digest+"\n"), 0o644)
}

// addPlatform compiles the commands for a platform and adds the manifest.
func (s settings) addPlatform(ctx context.Context, l *layout, i image, p platform, base layer) (descriptor, error) {
	dir, err := os.MkdirTemp("", "images-")
	if err != nil {
		return descriptor{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is the system's to clean
	files := map[string]file{}
	var binaries []string
	for _, command := range i.commands {
		binary := filepath.Join(dir, command)
		if err = s.compile(ctx, command, p, binary); err != nil {
			return descriptor{}, err
		}
		content, err := os.ReadFile(binary)
		if err != nil {
			return descriptor{}, err
		}
		files["usr/bin/"+command] = file{content: content, mode: 0o755}
		binaries = append(binaries, binary)
	}
	bill, err := s.bill(ctx, i, p, binaries)
	if err != nil {
		return descriptor{}, fmt.Errorf("bill of materials: %w", err)
	}
	files["usr/share/sbom/"+i.name+".spdx.json"] = file{content: bill, mode: 0o644}
	beside := filepath.Join(s.out, i.name+"-"+p.fileName()+".spdx.json")
	if err = os.WriteFile(beside, bill, 0o644); err != nil {
		return descriptor{}, err
	}
	own, err := newLayer("the program", files, s.created)
	if err != nil {
		return descriptor{}, err
	}
	l.addLayer(own)
	return s.addManifest(l, i, p, []layer{base, own})
}

func (s settings) addManifest(l *layout, i image, p platform, layers []layer) (descriptor, error) {
	c := configFile{
		Architecture: p.arch, Variant: p.variant, OS: p.os, Created: s.created.Format(time.RFC3339),
		Config: containerConfig{
			User: user, WorkingDir: "/", Entrypoint: []string{"/usr/bin/" + i.commands[0]},
			Env: []string{"PATH=/usr/bin"}, Labels: s.labels(i), ExposedPorts: map[string]struct{}{},
		},
		RootFS: rootFS{Type: "layers"},
	}
	m := manifestFile{SchemaVersion: 2, MediaType: mediaManifest, Annotations: s.labels(i)}
	for _, port := range i.ports {
		c.Config.ExposedPorts[fmt.Sprintf("%d/tcp", port)] = struct{}{}
	}
	for _, part := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, part.diffID)
		c.History = append(c.History, history{Created: c.Created, CreatedBy: part.what})
		m.Layers = append(m.Layers, part.descriptor())
	}
	var err error
	if m.Config, err = l.addJSON(mediaConfig, c); err != nil {
		return descriptor{}, err
	}
	d, err := l.addJSON(mediaManifest, m)
	d.Platform = &platformJSON{Architecture: p.arch, OS: p.os, Variant: p.variant}
	return d, err
}

func (s settings) labels(i image) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":         i.name,
		"org.opencontainers.image.description":   i.description,
		"org.opencontainers.image.version":       s.version,
		"org.opencontainers.image.revision":      s.commit,
		"org.opencontainers.image.created":       s.created.Format(time.RFC3339),
		"org.opencontainers.image.source":        projectURL,
		"org.opencontainers.image.url":           projectURL,
		"org.opencontainers.image.documentation": projectURL + "/-/blob/main/README.md",
		"org.opencontainers.image.licenses":      "MIT",
	}
}

func toJSON(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
