package gitaly

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/api/gitaly"
)

func tree(revision, path string, recursive bool) *gitaly.GetTreeEntriesRequest {
	return &gitaly.GetTreeEntriesRequest{Revision: []byte(revision), Path: []byte(path), Recursive: recursive}
}

// paths are those of a listing, directories with a slash.
func paths(messages []*gitaly.GetTreeEntriesResponse) []string {
	var all []string
	for _, m := range messages {
		for _, e := range m.GetEntries() {
			path := string(e.GetPath())
			if e.GetType() == gitaly.TreeEntry_TREE {
				path += "/"
			}
			all = append(all, path)
		}
	}
	return all
}

func TestListing(t *testing.T) {
	c := start(t, Config{})
	for name, test := range map[string]struct {
		request *gitaly.GetTreeEntriesRequest
		want    []string
	}{
		"root": {tree("HEAD", ".", false), []string{
			".gitlab/", "big.bin", "chain/", "empty.txt", "grüße.txt", "link", "manifests/", "run.sh", "sp ace/",
		}},
		"sub-tree": {tree(c.c2, "manifests", false), []string{"manifests/a/", "manifests/one.yaml"}},
		"recursive": {tree("refs/heads/main", "manifests/", true), []string{
			"manifests/a/", "manifests/a/b/", "manifests/a/b/c/", "manifests/a/b/c/three.yaml", "manifests/a/two.yaml", "manifests/one.yaml",
		}},
		"agents": {tree("HEAD", ".gitlab/agents", true), []string{
			".gitlab/agents/demo/", ".gitlab/agents/demo/config.yaml", ".gitlab/agents/other/", ".gitlab/agents/other/config.yaml",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.listing(t, test.request)
			if err != nil || !slices.Equal(paths(got), test.want) {
				t.Errorf("error %v, got %q", err, paths(got))
			}
			for i, m := range got {
				if cursor := m.GetPaginationCursor(); (cursor != nil) != (i == 0) || cursor.GetNextCursor() != "" {
					t.Errorf("cursor of message %d: %v", i, cursor)
				}
				for _, e := range m.GetEntries() {
					if e.GetCommitOid() != string(test.request.GetRevision()) {
						t.Errorf("commit_oid %q", e.GetCommitOid())
					}
				}
			}
		})
	}
}

func TestListing_Details(t *testing.T) {
	c := start(t, Config{})
	find := func(request *gitaly.GetTreeEntriesRequest, path string) *gitaly.TreeEntry {
		t.Helper()
		got, err := c.listing(t, request)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got {
			for _, e := range m.GetEntries() {
				if string(e.GetPath()) == path {
					return e
				}
			}
		}
		t.Fatalf("no %s", path)
		return nil
	}
	if e := find(tree("HEAD", ".", false), "chain"); string(e.GetFlatPath()) != "chain/x/y" || e.GetMode() != 0o40000 {
		t.Errorf("chain: %v", e)
	}
	if e := find(tree("HEAD", ".", false), "run.sh"); string(e.GetFlatPath()) != "run.sh" || e.GetMode() != 0o100755 || e.GetOid() != blobID("echo 2\n") {
		t.Errorf("run.sh: %v", e)
	}
	skip := tree("HEAD", ".", false)
	skip.SkipFlatPaths = true
	if e := find(skip, "chain"); e.GetFlatPath() != nil {
		t.Errorf("not skipped: %v", e)
	}
	if e := find(tree("HEAD", ".", true), "chain"); e.GetFlatPath() != nil {
		t.Errorf("recursive: %v", e)
	}
	if e := find(tree(c.c1, ".", true), "sub"); e.GetType() != gitaly.TreeEntry_COMMIT || e.GetMode() != 0o160000 {
		t.Errorf("sub: %v", e)
	}
	sorted := tree(c.c1, ".", false)
	sorted.Sort = gitaly.GetTreeEntriesRequest_TREES_FIRST
	got, err := c.listing(t, sorted)
	want := []string{".gitlab/", "chain/", "manifests/", "sp ace/", "big.bin", "empty.txt", "grüße.txt", "link", "run.sh", "sub"}
	if err != nil || !slices.Equal(paths(got), want) {
		t.Errorf("trees first: %v %q", err, paths(got))
	}
}

// outcome is how a listing ends: a code, or nothing listed.
type outcome struct {
	code   codes.Code
	detail bool
}

func TestListing_Misses(t *testing.T) {
	f := newFixture(t)
	silent := outcome{codes.OK, false}
	invalid, missing := outcome{codes.InvalidArgument, true}, outcome{codes.NotFound, true}
	plain := outcome{codes.InvalidArgument, false}
	nothing := map[Personality][2]outcome{ // recursive, flat
		V13_0: {silent, silent}, V13_12: {silent, silent}, V16_2: {silent, silent}, V16_5: {invalid, invalid}, V16_11: {missing, invalid}, V18: {missing, invalid},
	}
	file := map[Personality][2]outcome{
		V13_0: {silent, silent}, V13_12: {silent, silent}, V16_2: {silent, silent}, V16_5: {silent, silent}, V16_11: {silent, silent}, V18: {invalid, invalid},
	}
	always := func(o outcome) map[Personality][2]outcome {
		all := map[Personality][2]outcome{}
		for p := range nothing {
			all[p] = [2]outcome{o, o}
		}
		return all
	}
	submodule := map[Personality][2]outcome{
		V13_0: {silent, silent}, V13_12: {silent, silent}, V16_2: {silent, silent}, V16_5: {silent, silent},
		V16_11: {{codes.Internal, false}, silent}, V18: {missing, missing},
	}
	tests := map[string]struct {
		path, revision, repository string
		want                       map[Personality][2]outcome
	}{
		"path":             {"nothing", "HEAD", full, nothing},
		"above":            {"../x", "HEAD", full, nothing},
		"leading slash":    {"/manifests", "HEAD", full, nothing},
		"revision":         {".", "refs/heads/none", full, nothing},
		"empty repository": {".", "HEAD", "E", nothing},
		"unborn HEAD":      {"d", "HEAD", "U", nothing},
		"file":             {"run.sh", "HEAD", full, file},
		"submodule":        {"sub", "refs/heads/feature", full, submodule},
		"empty path":       {"", "HEAD", full, always(plain)},
		"an option":        {".", "-x", full, always(plain)},
	}
	for _, p := range Personalities {
		c := startOn(t, f, Config{Personality: p})
		for name, test := range tests {
			for i, recursive := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s %s recursive %t", p.version(), name, recursive), func(t *testing.T) {
					request := tree(test.revision, test.path, recursive)
					request.Repository = repo(test.repository)
					got, err := c.listing(t, request)
					want := test.want[p][i]
					wantCode(t, err, want.code)
					if unresolved(err) != want.detail || len(got) != 0 {
						t.Errorf("%d messages, error %v", len(got), err)
					}
				})
			}
		}
	}
}

func TestListing_UnifiedFlagOf16_11(t *testing.T) {
	c := start(t, Config{Personality: V16_11})
	c.md.Set("gitaly-feature-use-unified-get-tree-entries", "true")
	for _, path := range []string{"nothing", "run.sh"} {
		_, err := c.listing(t, tree("HEAD", path, true))
		wantCode(t, err, codes.InvalidArgument)
		if !unresolved(err) {
			t.Errorf("%s: no detail in %v", path, err)
		}
	}
}

func TestListing_Pages(t *testing.T) {
	f := newFixture(t)
	for _, p := range []Personality{V16_2, V18} {
		c := startOn(t, f, Config{Personality: p})
		whole, err := c.listing(t, tree("HEAD", ".", true))
		if err != nil {
			t.Fatal(err)
		}
		var joined []string
		token := ""
		for range 100 {
			request := tree("HEAD", ".", true)
			request.PaginationParams = &gitaly.PaginationParameter{Limit: 5, PageToken: token}
			got, err := c.listing(t, request)
			if err != nil || len(paths(got)) > 5 {
				t.Fatalf("error %v, %d entries", err, len(paths(got)))
			}
			joined = append(joined, paths(got)...)
			if token = got[0].GetPaginationCursor().GetNextCursor(); token == "" {
				break
			}
		}
		if !slices.Equal(joined, paths(whole)) {
			t.Errorf("%s: pages %q, whole %q", p.version(), joined, paths(whole))
		}
		for limit, want := range map[int32]int{0: 0, -1: len(joined), 1000: len(joined)} {
			request := tree("HEAD", ".", true)
			request.PaginationParams = &gitaly.PaginationParameter{Limit: limit}
			got, err := c.listing(t, request)
			if err != nil || len(paths(got)) != want {
				t.Errorf("limit %d: %d entries, error %v", limit, len(paths(got)), err)
			}
		}
		request := tree("HEAD", ".", true)
		request.PaginationParams = &gitaly.PaginationParameter{Limit: 5, PageToken: "bad"}
		_, err = c.listing(t, request)
		wantCode(t, err, codes.Internal)
	}
	old := startOn(t, f, Config{Personality: V13_12})
	request := tree("HEAD", ".", true)
	request.PaginationParams = &gitaly.PaginationParameter{Limit: 1}
	if got, err := old.listing(t, request); err != nil || len(paths(got)) < 10 || got[0].GetPaginationCursor() != nil {
		t.Errorf("13.12: %d entries, error %v", len(paths(got)), err)
	}
}

func TestListing_ManyFiles(t *testing.T) {
	c := start(t, Config{})
	var script strings.Builder
	script.WriteString(commitHead("refs/heads/main", "Many"))
	for i := range 20_000 {
		fmt.Fprintf(&script, "M 100644 inline dir%03d/file-with-a-long-name-%05d.yaml\ndata 2\nx\n\n", i%100, i)
	}
	runGit(t, c.repository(t, "M"), script.String(), "fast-import", "--quiet")
	request := tree("HEAD", ".", true)
	request.Repository = repo("M")
	got, err := c.listing(t, request)
	if err != nil || len(got) < 2 || len(paths(got)) != 20_100 {
		t.Errorf("%d messages, %d entries, error %v", len(got), len(paths(got)), err)
	}
}
