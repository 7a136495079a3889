package charts

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// Matrix runs every case of testdata/<chart> as a subtest. The release and its namespace, where PodSecurity enforces "restricted", have
// the name of the chart.
func (c *Chart) Matrix(t *testing.T) {
	t.Helper()
	root := filepath.Join("testdata", c.Name)
	cases, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	c.cluster.restricted(t, c.Name)
	for _, entry := range cases {
		if !entry.IsDir() {
			continue
		}
		t.Run(entry.Name(), func(t *testing.T) {
			t.Parallel()
			c.check(t, filepath.Join(root, entry.Name()))
		})
	}
}

func (c *Chart) check(t *testing.T, dir string) {
	t.Helper()
	values, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.Lint(t, string(values))
	manifest := c.Render(t, string(values))
	Golden(t, filepath.Join(dir, "golden.yaml"), manifest)

	before, err := os.ReadFile(filepath.Join(dir, "before.yaml"))
	if err == nil {
		c.cluster.Create(t, string(before))
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	c.cluster.DryRun(t, c.Name, manifest+Pods(t, manifest))
}

// Golden compares got with a file, or writes it with -update.
func Golden(t testing.TB, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-update rewrites it):\n%s", path, diff)
	}
}
