package selection

import (
	"errors"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		glob, dir string
		deep      bool
		yes, no   []string
	}{
		{"**/*.{yaml,yml,json}", "", true, []string{"a.yaml", "a/b.yml", "a/b/c.json", ".hidden.yaml", "a/.b.yaml"}, []string{"a.txt", ".git/a.yaml", "a/.b/c.yaml", "yaml"}},
		{"/*.yaml", "", false, []string{"a.yaml"}, []string{"a/b.yaml"}},
		{"a/b/*.yaml", "a/b", false, []string{"a/b/c.yaml"}, []string{"a/b/c/d.yaml", "a/b.yaml", "x/a/b/c.yaml"}},
		{"a/b/**/*.yaml", "a/b", true, []string{"a/b/c.yaml", "a/b/c/d.yaml"}, []string{"a/c.yaml"}},
		{"a/b*/c.yaml", "a", true, []string{"a/b/c.yaml", "a/bx/c.yaml"}, []string{"a/b/d/c.yaml"}},
		{"a/file-[0-9].yaml", "a", true, []string{"a/file-1.yaml"}, []string{"a/file-x.yaml"}},
		{"a/{b,c}.yaml", "a", false, []string{"a/b.yaml", "a/c.yaml"}, []string{"a/d.yaml"}},
		{"a/?.yaml", "a", false, []string{"a/b.yaml"}, []string{"a/bc.yaml"}},
		{"a/plain.yaml", "a", false, []string{"a/plain.yaml"}, []string{"plain.yaml"}},
		{"a/**", "a", true, []string{"a/b", "a/b/c"}, []string{"b", "a/.b/c"}},
		{`a/\*.yaml`, "a", false, []string{"a/*.yaml"}, []string{"a/b.yaml"}},
	} {
		g, err := ParseGlob(tc.glob)
		if err != nil {
			t.Errorf("%s: %v", tc.glob, err)
			continue
		}
		if g.Dir() != tc.dir || g.Deep() != tc.deep {
			t.Errorf("%s: dir %q deep %v, want %q %v", tc.glob, g.Dir(), g.Deep(), tc.dir, tc.deep)
		}
		for _, file := range tc.yes {
			if !g.Match(file) {
				t.Errorf("%s does not mean %s", tc.glob, file)
			}
		}
		for _, file := range tc.no {
			if g.Match(file) {
				t.Errorf("%s means %s", tc.glob, file)
			}
		}
	}
}

func TestGlob_Mistakes(t *testing.T) {
	var mistake *UserError
	for _, glob := range []string{"", "/", "[", "{a", "a/[b", "../*.yaml", "a/../b", "a/./b", "a//b", `a\`} {
		if _, err := ParseGlob(glob); !errors.As(err, &mistake) {
			t.Errorf("%q: %v", glob, err)
		}
	}
}

func TestCleanFile(t *testing.T) {
	for file, want := range map[string]string{"/a/b": "a/b", "a": "a", ".hidden/a": ".hidden/a", "..a": "..a"} {
		if got, err := CleanFile(file); got != want || err != nil {
			t.Errorf("%q = %q, %v", file, got, err)
		}
	}
	var mistake *UserError
	for _, file := range []string{"", "/", "..", "../a", "a/../../b", "a/./b", "a//b", "a\x00b", "a/"} {
		if got, err := CleanFile(file); !errors.As(err, &mistake) {
			t.Errorf("%q = %q, %v", file, got, err)
		}
	}
}

func TestBudget(t *testing.T) {
	b := Budget{Files: 3}
	for range 3 {
		if err := b.Visit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Visit(); err == nil || !strings.Contains(err.Error(), "3 entries") {
		t.Error(err)
	}
	if err := b.Choose("a"); err != nil {
		t.Error(err)
	}
	if err := b.Choose("a"); err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Error(err)
	}
	if b.ChooseFile("a") || !b.ChooseFile("b") {
		t.Error("files by name are chosen once, without an error")
	}
}

// No glob may mean a file that is outside of the directory that is listed for it.
func FuzzGlob(f *testing.F) {
	f.Add("a/**/*.yaml", "a/b.yaml")
	f.Add("a{/b,}/c", "a/c")
	f.Add("{a/b,c}/*.yaml", "c/d.yaml")
	f.Add(`a\/b/*`, "a/b/c")
	f.Fuzz(func(t *testing.T, pattern, file string) {
		clean, err := CleanFile(file)
		if err != nil {
			return
		}
		g, err := ParseGlob(pattern)
		if err != nil || !g.Match(clean) {
			return
		}
		if g.Dir() != "" && !strings.HasPrefix(clean, g.Dir()+"/") {
			t.Errorf("%q means %q, which is not in %q", pattern, clean, g.Dir())
		}
		below := strings.TrimPrefix(clean, g.Dir()+"/")
		if g.Dir() == "" {
			below = clean
		}
		if !g.Deep() && strings.Contains(below, "/") {
			t.Errorf("%q means %q, which is too deep", pattern, clean)
		}
	})
}
