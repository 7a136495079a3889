package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestPages_AreThoseOfTheCommandLines(t *testing.T) {
	all, err := pages()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kas.1", "kas-validate.1", "kas-standalone-hash-token.1", "agentk.1", "agentk-generate.1", "agentk-version.1"} {
		if all[name] == nil {
			t.Errorf("there is no page %s", name)
		}
	}
	for name, page := range all {
		committed, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(committed, page) {
			t.Errorf("%s is not what the command line says now: run \"make gen\" (%v)", name, err)
		}
	}
	there, err := filepath.Glob("*.1")
	if err != nil || len(there) != len(all) {
		t.Errorf("%d pages for %d commands: %v %v", len(there), len(all), there, err)
	}
}

func TestRun_ReplacesPages(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gone.1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "gone.1")); err == nil {
		t.Error("the page of a command that is gone stays")
	}
	if _, err := os.Stat(filepath.Join(dir, "kas.1")); err != nil {
		t.Error(err)
	}
	if err := run(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is missing is not noticed")
	}
}
