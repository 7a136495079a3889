//go:build e2e

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/internal/version"
)

// Limits, in bytes.
const (
	maxKasImage  = 40_000_000
	maxAgentkExe = 45_000_000
)

// TestImages builds the real images twice, the second time from a copy of the checkout in another folder.
func TestImages(t *testing.T) {
	root := "../.."
	copied := t.TempDir()
	for _, dir := range []string{"api", "cmd", "deploy/kustomize", "internal"} {
		if err := os.CopyFS(filepath.Join(copied, dir), os.DirFS(filepath.Join(root, dir))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum", "LICENSE"} {
		write(t, copied, name, string(read(t, filepath.Join(root, name))))
	}
	// Git tells commits apart, and the copy has none: hide git from both.
	t.Setenv("GIT_DIR", filepath.Join(t.TempDir(), "none"))
	platform := "-platforms=linux/" + runtime.GOARCH
	one, two := build(t, root, platform), build(t, copied, platform)
	for _, i := range catalogue() {
		tarball := i.name + ".tar"
		if !bytes.Equal(read(t, filepath.Join(one, tarball)), read(t, filepath.Join(two, tarball))) {
			t.Errorf("%s: two builds differ", tarball)
		}
		o := open(t, filepath.Join(one, tarball))
		binary := o.files[0]["usr/bin/"+i.name]
		t.Logf("%s: %.1f MB, executable %.1f MB", i.name, float64(o.bytes[0])/1e6, float64(len(binary))/1e6)
		if i.name == "kas" && o.bytes[0] > maxKasImage {
			t.Errorf("image kas has %d bytes, more than %d", o.bytes[0], maxKasImage)
		}
		if i.name == "agentk" && len(binary) > maxAgentkExe {
			t.Errorf("executable agentk has %d bytes, more than %d", len(binary), maxAgentkExe)
		}
		checkBill(t, o.files[0]["usr/share/sbom/"+i.name+".spdx.json"], binary)
		checkRuns(t, binary)
	}
}

// checkRuns starts a binary that has nothing of this machine but the kernel: it is static.
func checkRuns(t *testing.T, binary []byte) {
	t.Helper()
	root := t.TempDir()
	program := filepath.Join(root, "program")
	if err := os.WriteFile(program, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "chroot", root, "/program", "--version")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), version.Version+" commit unknown") {
		t.Errorf("%v: %s", err, out)
	}
}
