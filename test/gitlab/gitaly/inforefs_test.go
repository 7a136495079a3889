package gitaly

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// payloads takes an advertisement apart: the payloads of its pkt-lines, "" for each flush.
func payloads(t *testing.T, text string) []string {
	t.Helper()
	var all []string
	for text != "" {
		var length int
		for _, digit := range text[:4] {
			length = length<<4 + strings.IndexRune("0123456789abcdef", digit)
		}
		if length == 0 {
			all, text = append(all, ""), text[4:]
			continue
		}
		all, text = append(all, strings.TrimSuffix(text[4:length], "\n")), text[length:]
	}
	return all
}

func names(lines []string) []string {
	var all []string
	for _, l := range lines {
		_, name, _ := strings.Cut(l, " ")
		name, _, _ = strings.Cut(name, "\x00")
		all = append(all, name)
	}
	return all
}

func TestAdvertisement(t *testing.T) {
	c := start(t, Config{})
	c.server.SetCache(false)
	text, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(full)})
	if err != nil {
		t.Fatal(err)
	}
	lines := payloads(t, text)
	if lines[0] != "# service=git-upload-pack" || lines[1] != "" || lines[len(lines)-1] != "" || slices.Index(lines[2:], "") != len(lines)-3 {
		t.Fatalf("framing: %q", lines)
	}
	refs := lines[2 : len(lines)-1]
	if !strings.HasPrefix(refs[0], c.c2+" HEAD\x00") {
		t.Errorf("first ref %q", refs[0])
	}
	for _, capability := range []string{"symref=HEAD:refs/heads/main", "object-format=sha1", "allow-tip-sha1-in-want", "filter"} {
		if !strings.Contains(refs[0], " "+capability) {
			t.Errorf("no capability %s", capability)
		}
	}
	got := names(refs)
	if !slices.IsSorted(got[1:]) {
		t.Errorf("not sorted: %q", got)
	}
	for _, want := range []string{"refs/environments/prod/deployments/1", "refs/heads/feature", "refs/merge-requests/1/head", "refs/pipelines/5", "refs/tags/v1", "refs/tags/v1^{}"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not there", want)
		}
	}
	for _, name := range got {
		if strings.HasPrefix(name, "refs/keep-around/") || strings.HasPrefix(name, "refs/tmp/") || strings.HasPrefix(name, "refs/remotes/") {
			t.Errorf("%s is not hidden", name)
		}
	}
	c.server.SetChunks(1)
	if again, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(full)}); err != nil || again != text {
		t.Errorf("in pieces of one byte: %v, equal %t", err, again == text)
	}
}

func TestAdvertisement_OldVersionsHideNothing(t *testing.T) {
	c := start(t, Config{Personality: V13_12})
	text, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(full)})
	if err != nil || !strings.Contains(text, "refs/keep-around/") {
		t.Errorf("error %v in\n%s", err, text)
	}
}

func TestAdvertisement_OddHeads(t *testing.T) {
	f := newFixture(t)
	ask := func(p Personality, path string) []string {
		c := startOn(t, f, Config{Personality: p})
		text, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(path)})
		if err != nil {
			t.Fatal(err)
		}
		lines := payloads(t, text)
		return lines[2 : len(lines)-1]
	}
	for path, digits := range map[string]int{"E": 40, "SE": 64} {
		if lines := ask(V18, path); len(lines) != 1 || !strings.HasPrefix(lines[0], strings.Repeat("0", digits)+" capabilities^{}\x00") || strings.Contains(lines[0], "symref") {
			t.Errorf("%s in the new form: %q", path, lines)
		}
		if lines := ask(V13_12, path); len(lines) != 0 {
			t.Errorf("%s in the old form: %q", path, lines)
		}
	}
	if got := names(ask(V18, "U")); !slices.Equal(got, []string{"refs/heads/main"}) {
		t.Errorf("U: %q", got)
	}
	if lines := ask(V18, "D"); names(lines)[0] != "HEAD" || strings.Contains(lines[0], "symref=HEAD") {
		t.Errorf("D: %q", lines)
	}
	if got := names(ask(V18, "T")); !slices.Equal(got, []string{"refs/tags/only"}) {
		t.Errorf("T: %q", got)
	}
	if lines := ask(V18, "S"); len(lines[0][:strings.IndexByte(lines[0], ' ')]) != 64 || !strings.Contains(lines[0], "object-format=sha256") {
		t.Errorf("S: %q", lines)
	}
}

func TestAdvertisement_ProtocolVersions(t *testing.T) {
	c := start(t, Config{})
	ask := func(request *gitaly.InfoRefsRequest) (string, error) {
		request.Repository = repo(full)
		return c.advertisement(t, request)
	}
	if text, err := ask(&gitaly.InfoRefsRequest{GitProtocol: "version=1"}); err != nil || payloads(t, text)[2] != "version 1" {
		t.Errorf("version 1: %v %q", err, text)
	}
	if text, err := ask(&gitaly.InfoRefsRequest{GitProtocol: "version=2"}); err != nil || payloads(t, text)[2] != "version 2" || strings.Contains(text, "refs/heads") {
		t.Errorf("version 2: %v %q", err, text)
	}
	if text, err := ask(&gitaly.InfoRefsRequest{GitProtocol: "bogus"}); err != nil || !strings.Contains(text, "refs/heads/main") {
		t.Errorf("bogus: %v", err)
	}
	if _, err := ask(&gitaly.InfoRefsRequest{GitConfigOptions: []string{"core.x=y"}}); err != nil {
		t.Error(err)
	}
	_, err := ask(&gitaly.InfoRefsRequest{GitConfigOptions: []string{"malformed"}})
	wantCode(t, err, codes.Internal)
}

func TestAdvertisement_Cache(t *testing.T) {
	c := start(t, Config{})
	ask := func() string {
		text, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(full)})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	write := func(ref, commit string) {
		_, err := gitaly.NewRepositoryServiceClient(c.conn).WriteRef(c.ctx(t), &gitaly.WriteRefRequest{Repository: repo(full), Ref: []byte(ref), Revision: []byte(commit)})
		if err != nil {
			t.Fatal(err)
		}
	}
	first := ask()
	if ask() != first {
		t.Error("changed by itself")
	}
	write("refs/heads/main", c.c1)
	second := ask()
	if second == first || !strings.Contains(second, c.c1+" refs/heads/main\n") {
		t.Errorf("WriteRef is not seen:\n%s", second)
	}
	runGit(t, filepath.Join(c.dir, full), "", "update-ref", "refs/heads/main", c.c2)
	if ask() != second {
		t.Error("a change behind Gitaly's back is seen")
	}
	if commit, err := c.findCommit(t, repo(full), "refs/heads/main"); err != nil || commit.GetId() != c.c2 {
		t.Errorf("FindCommit says %s, %v", commit.GetId(), err)
	}
	c.md.Set("gitaly-feature-x", "true")
	if ask() == second {
		t.Error("other feature flags share an answer")
	}
	c.md.Delete("gitaly-feature-x")
	write("refs/heads/other", c.c1)
	if third := ask(); !strings.Contains(third, c.c2+" refs/heads/main\n") {
		t.Errorf("still stale:\n%s", third)
	}
}

func TestAdvertisement_CancelledIsNotKept(t *testing.T) {
	c := start(t, Config{})
	c.server.SetChunks(1)
	c.server.Break(Fault{Method: "InfoRefsUploadPack", After: 5, Code: codes.Unavailable, Times: 1})
	_, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(full)})
	wantCode(t, err, codes.Unavailable)
	runGit(t, filepath.Join(c.dir, full), "", "update-ref", "refs/heads/main", c.c1)
	text, err := c.advertisement(t, &gitaly.InfoRefsRequest{Repository: repo(full)})
	if err != nil || !strings.Contains(text, c.c1+" refs/heads/main\n") {
		t.Errorf("error %v, stale answer %t", err, err == nil)
	}
}
