package gitaly

import (
	"crypto/sha1" // #nosec G505 -- git's object ids
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/api/gitaly"
)

func entry(revision, path string) *gitaly.TreeEntryRequest {
	return &gitaly.TreeEntryRequest{Revision: []byte(revision), Path: []byte(path)}
}

func TestTreeEntry_SmallFiles(t *testing.T) {
	c := start(t, Config{})
	c.server.SetChunks(128 << 10)
	for _, test := range []struct {
		revision, path, content string
		mode                    int32
	}{
		{"HEAD", ".gitlab/agents/demo/config.yaml", "ci_access:\n", 0o100644},
		{"refs/heads/main", "empty.txt", "", 0o100644},
		{"v1", "run.sh", "echo 1\n", 0o100755},
		{c.c2, "run.sh", "echo 2\n", 0o100755},
		{c.c2, "run.sh/", "echo 2\n", 0o100755},
		{"HEAD", "link", "run.sh", 0o120000},
		{"HEAD", "sp ace/f ile.txt", "space\n", 0o100644},
		{"HEAD", "grüße.txt", "utf-8\n", 0o100644},
		{"HEAD^{tree}", "manifests/a/b/c/three.yaml", "three\n", 0o100644},
	} {
		t.Run(test.revision+" "+test.path, func(t *testing.T) {
			got, err := c.entry(t, entry(test.revision, test.path))
			if err != nil || len(got) != 1 {
				t.Fatalf("%d messages, error %v", len(got), err)
			}
			m := got[0]
			if m.GetType() != gitaly.TreeEntryResponse_BLOB || string(m.GetData()) != test.content || m.GetSize() != int64(len(test.content)) ||
				m.GetMode() != test.mode || m.GetOid() != blobID(test.content) {
				t.Errorf("got %v", m)
			}
		})
	}
}

func blobID(content string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content)) // #nosec G401
	return hex.EncodeToString(sum[:])
}

func TestTreeEntry_Sizes(t *testing.T) {
	f := newFixture(t)
	content := strings.Repeat("0123456789", 30_000)
	tests := map[string]struct {
		limit, max int64
		want       codes.Code
		length     int
	}{
		"plain":                  {0, 0, codes.OK, 300_000},
		"one too large":          {0, 299_999, codes.FailedPrecondition, 0},
		"just small enough":      {0, 300_000, codes.OK, 300_000},
		"first bytes":            {10, 0, codes.OK, 10},
		"first bytes, too large": {10, 299_999, codes.FailedPrecondition, 0},
		"negative limit":         {-1, 0, codes.InvalidArgument, 0},
		"negative maximum":       {0, -1, codes.InvalidArgument, 0},
	}
	c := startOn(t, f, Config{})
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := c.entry(t, &gitaly.TreeEntryRequest{Revision: []byte("HEAD"), Path: []byte("big.bin"), Limit: test.limit, MaxSize: test.max})
			wantCode(t, err, test.want)
			var all strings.Builder
			for i, m := range got {
				all.Write(m.GetData())
				if len(m.GetData()) > 131072 {
					t.Errorf("a piece of %d bytes", len(m.GetData()))
				}
				if first := m.GetOid() == blobID(content) && m.GetSize() == 300_000 && m.GetMode() == 0o100644; first != (i == 0) || i > 0 && m.GetType() != gitaly.TreeEntryResponse_COMMIT {
					t.Errorf("message %d: metadata %t", i, first)
				}
			}
			if all.String() != content[:test.length] {
				t.Errorf("%d bytes", all.Len())
			}
		})
	}
	old := startOn(t, f, Config{Personality: V13_0})
	_, err := old.entry(t, &gitaly.TreeEntryRequest{Revision: []byte("HEAD"), Path: []byte("big.bin"), MaxSize: 1})
	wantCode(t, err, codes.OK)
}

func TestTreeEntry_NoFile(t *testing.T) {
	c := start(t, Config{})
	got, err := c.entry(t, entry("HEAD", "manifests"))
	if err != nil || len(got) != 1 || got[0].GetType() != gitaly.TreeEntryResponse_TREE || got[0].GetMode() != 0o40000 || got[0].GetSize() == 0 || got[0].GetData() != nil {
		t.Errorf("directory: %v, %v", got, err)
	}
	if got, err := c.entry(t, entry("HEAD", "manifests/")); err != nil || got[0].GetType() != gitaly.TreeEntryResponse_TREE {
		t.Errorf("directory with slash: %v, %v", got, err)
	}
	got, err = c.entry(t, entry(c.c1, "sub"))
	if err != nil || len(got) != 1 || got[0].GetType() != gitaly.TreeEntryResponse_COMMIT || got[0].GetOid() != strings.Repeat("12", 20) ||
		got[0].GetMode() != 0o160000 || got[0].GetSize() != 0 {
		t.Errorf("submodule: %v, %v", got, err)
	}
}

func TestTreeEntry_Missing(t *testing.T) {
	f := newFixture(t)
	requests := map[string]*gitaly.TreeEntryRequest{
		"path":              entry("HEAD", "nothing"),
		"parent":            entry("HEAD", "nothing/below"),
		"parent is a file":  entry("HEAD", "run.sh/below"),
		"revision":          entry("refs/heads/none", "run.sh"),
		"zero id":           entry(strings.Repeat("0", 40), "run.sh"),
		"leading slash":     entry("HEAD", "/run.sh"),
		"dot slash":         entry("HEAD", "./run.sh"),
		"dot":               entry("HEAD", "."),
		"slash":             entry("HEAD", "/"),
		"above":             entry("HEAD", "../x"),
		"empty repository":  {Repository: repo("E"), Revision: []byte("HEAD"), Path: []byte("f")},
		"unborn HEAD":       {Repository: repo("U"), Revision: []byte("HEAD"), Path: []byte("d/f")},
		"short id in long":  {Repository: repo("S"), Revision: []byte(strings.Repeat("a", 40)), Path: []byte("d/f")},
		"refs that no more": entry("refs/heads/feature2", "run.sh"),
	}
	for _, p := range []Personality{V13_0, V13_12, V16_2, V18} {
		c := startOn(t, f, Config{Personality: p})
		for name, request := range requests {
			t.Run(p.version()+" "+name, func(t *testing.T) {
				got, err := c.entry(t, request)
				if p >= V16_2 {
					wantStatus(t, err, codes.NotFound, "tree entry not found")
					return
				}
				if err != nil || len(got) != 1 || got[0].GetOid() != "" {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
	}
}

func TestTreeEntry_FlagOf13(t *testing.T) {
	f := newFixture(t)
	for p, want := range map[Personality]codes.Code{V13_0: codes.OK, V13_12: codes.NotFound} {
		c := startOn(t, f, Config{Personality: p})
		c.md.Set("gitaly-feature-grpc-tree-entry-not-found", "true")
		_, err := c.entry(t, entry("HEAD", "nothing"))
		wantCode(t, err, want)
	}
}

func TestTreeEntry_BadRequests(t *testing.T) {
	c := start(t, Config{})
	for name, request := range map[string]*gitaly.TreeEntryRequest{
		"no path":           entry("HEAD", ""),
		"no revision":       entry("", "run.sh"),
		"an option":         entry("-x", "run.sh"),
		"space":             entry("HEAD ", "run.sh"),
		"colon":             entry("HEAD:manifests", "one.yaml"),
		"backslash":         entry(`a\b`, "run.sh"),
		"NUL in a revision": entry("a\x00b", "run.sh"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.entry(t, request)
			wantCode(t, err, codes.InvalidArgument)
		})
	}
}
