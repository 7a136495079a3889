package gitaly

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

func TestHead_EveryRepositoryAndRelease(t *testing.T) {
	for name, personality := range double.Personalities {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, func(c *double.Config) { c.Personality = personality })
			fixture(b)
			one := commit("refs/heads/main", add("100644", "a", "a"))
			b.repo("empty", "sha1")
			b.repo("empty256", "sha256")
			b.repo("unborn", "sha1", one)
			b.git("unborn", "", "symbolic-ref", "HEAD", "refs/heads/none")
			b.repo("detached", "sha1", one)
			b.git("detached", "", "update-ref", "--no-deref", "HEAD", b.oid("detached", "main"))
			b.repo("tag", "sha1", commit("refs/tags/v1", add("100644", "a", "a")))
			b.repo("sha256", "sha256", one)
			for _, test := range []struct{ name, branch, want string }{
				{"full", "main", b.oid("full", "main")},
				{"full", "", b.oid("full", "main")},
				{"full", "feature", b.oid("full", "feature")},
				{"empty", "main", ""},
				{"empty", "", ""},
				{"empty256", "main", ""},
				{"unborn", "", b.oid("unborn", "main")},
				{"unborn", "main", b.oid("unborn", "main")},
				{"detached", "", b.oid("detached", "main")},
				{"detached", "main", b.oid("detached", "main")},
				{"sha256", "main", b.oid("sha256", "main")},
				{"sha256", "", b.oid("sha256", "main")},
			} {
				got, err := b.client.Head(t.Context(), b.on(test.name, test.branch))
				if err != nil || got != test.want {
					t.Errorf("%s, branch %q: got %q, %v, want %q", test.name, test.branch, got, err, test.want)
				}
			}
			_, err := b.client.Head(t.Context(), b.on("full", "gone"))
			b.wantKind(err, fault.NotFound, `"group/full"`, "refs/heads/gone")
			if fault.HopOf(err) != fault.Git {
				t.Errorf("hop %q", fault.HopOf(err))
			}
			for _, repo := range []string{"detached", "unborn", "tag"} {
				_, err := b.client.Head(t.Context(), b.on(repo, "gone"))
				b.wantKind(err, fault.NotFound, repo, "refs/heads/gone")
			}
		})
	}
}

// TestHead_Cached: the request is the one that Gitaly's cache wants, the answer is read to its end, and so the next costs nothing.
func TestHead_Cached(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for range 3 {
		got, err := b.client.Head(t.Context(), b.on("full", "main"))
		if err != nil || got != b.oid("full", "main") {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	calls := b.server.Calls("")
	if len(calls) != 3 {
		t.Fatalf("%d calls", len(calls))
	}
	want := &gitalypb.InfoRefsRequest{Repository: &gitalypb.Repository{
		StorageName: testStorage, RelativePath: "full.git", GlRepository: "project-1", GlProjectPath: "group/full",
	}}
	for _, c := range calls {
		if c.Method != "InfoRefsUploadPack" || !proto.Equal(c.Request, want) {
			t.Errorf("%s %v", c.Method, c.Request)
		}
		if c.Metadata.Get(sessionKey) != nil || c.Metadata.Get(routeKey) != nil {
			t.Errorf("a poll has %v", c.Metadata)
		}
	}
}

func TestHead_Pieces(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for _, sizes := range [][]int{{1}, {3, 5, 7}, {128 << 10}} {
		b.server.SetChunks(sizes...)
		got, err := b.client.Head(t.Context(), b.on("full", "feature"))
		if err != nil || got != b.oid("full", "feature") {
			t.Errorf("pieces of %v: got %q, %v", sizes, got, err)
		}
	}
}

func TestHead_BadBranchNames(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for _, branch := range []string{
		"-x", "a b", "main~1", "main^{tree}", "a:b", "a?", "*", "a[b", `a\b`, "a..b", "a@{1}", "a//b", "/a", "a/", "a.", ".a", "a/.b", "a.lock",
		"a.lock/b", "a\x00", "a\n", "a\x7f",
	} {
		_, err := b.client.Head(t.Context(), b.on("full", branch))
		b.wantKind(err, fault.NotFound, "not a valid name")
	}
	b.wantCalls()
}

// TestHead_TagsOnly: such a repository is not empty, so its branch is missing.
func TestHead_TagsOnly(t *testing.T) {
	b := newBed(t, nil)
	b.repo("tag", "sha1", commit("refs/tags/v1", add("100644", "a", "a")))
	for _, branch := range []string{"", "main"} {
		_, err := b.client.Head(t.Context(), b.on("tag", branch))
		b.wantKind(err, fault.NotFound, "group/tag")
	}
}

// wide makes a repository with too many refs for an advertisement.
func wide(b *bed) {
	fixture(b)
	var refs strings.Builder
	refs.WriteString("# pack-refs with: sorted\n")
	oid := b.oid("full", "main")
	for i := range 6000 {
		fmt.Fprintf(&refs, "%s refs/merge-requests/%06d/head\n", oid, i)
	}
	if err := os.WriteFile(filepath.Join(b.root, "full.git", "packed-refs"), []byte(refs.String()), 0o600); err != nil {
		b.Fatal(err)
	}
}

func TestHead_Wide(t *testing.T) {
	b := newBed(t, func(c *double.Config) { c.Personality = double.V16_11 })
	wide(b)
	main := b.on("full", "main")
	for range 2 {
		got, err := b.client.Head(t.Context(), main)
		if err != nil || got != b.oid("full", "main") {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	b.wantCalls("InfoRefsUploadPack", "ListRefs", "ListRefs")
	got, err := b.client.Head(t.Context(), b.project("full"))
	if err != nil || got != b.oid("full", "main") {
		t.Errorf("HEAD: got %q, %v", got, err)
	}
	b.wantCalls("FindCommit")
	_, err = b.client.Head(t.Context(), b.on("full", "gone"))
	b.wantKind(err, fault.NotFound)
	b.wantCalls("ListRefs", "FindDefaultBranchName", "ListRefs", "FindDefaultBranchName")
	b.git("full", "", "symbolic-ref", "HEAD", "refs/heads/none")
	got, err = b.client.Head(t.Context(), b.project("full"))
	if err != nil || got != b.oid("full", "main") {
		t.Errorf("unborn HEAD: got %q, %v", got, err)
	}
	b.wantCalls("FindCommit", "FindDefaultBranchName", "FindCommit")
	b.clock.Add(wideTime)
	if _, err = b.client.Head(t.Context(), main); err != nil {
		t.Error(err)
	}
	b.wantCalls("InfoRefsUploadPack", "ListRefs")
}

// TestHead_WideAtOldServer: it does not know ListRefs, which is remembered for an hour.
func TestHead_WideAtOldServer(t *testing.T) {
	for _, praefect := range []bool{false, true} {
		b := newBed(t, func(c *double.Config) { c.Personality, c.Praefect = double.V13_12, praefect })
		wide(b)
		for range 2 {
			got, err := b.client.Head(t.Context(), b.on("full", "feature"))
			if err != nil || got != b.oid("full", "feature") {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		b.wantCalls("InfoRefsUploadPack", "ListRefs", "FindCommit", "FindCommit")
		b.clock.Add(unknownTime)
		b.client.reap()
		if _, err := b.client.Head(t.Context(), b.on("full", "feature")); err != nil {
			t.Error(err)
		}
		b.wantCalls("InfoRefsUploadPack", "ListRefs", "FindCommit")
	}
}

func TestHead_WideThenEmpty(t *testing.T) {
	b := newBed(t, nil)
	wide(b)
	if _, err := b.client.Head(t.Context(), b.on("full", "main")); err != nil {
		t.Fatal(err)
	}
	b.repo("again", "sha1")
	for _, step := range [][2]string{{"full.git", "old.git"}, {"again.git", "full.git"}} {
		if err := os.Rename(filepath.Join(b.root, step[0]), filepath.Join(b.root, step[1])); err != nil {
			t.Fatal(err)
		}
	}
	b.server.ForgetCalls()
	for range 2 {
		got, err := b.client.Head(t.Context(), b.on("full", "main"))
		if err != nil || got != "" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	// The first time it is not believed at once.
	b.wantCalls("ListRefs", "FindDefaultBranchName", "ListRefs", "FindDefaultBranchName", "ListRefs", "FindDefaultBranchName")
}

// TestHead_SharedByMany: hundreds of agents of one project cost two calls, not hundreds.
func TestHead_SharedByMany(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	b.server.Break(double.Fault{Method: "InfoRefsUploadPack", Delay: 300 * time.Millisecond})
	want := map[string]string{"main": b.oid("full", "main"), "feature": b.oid("full", "feature"), "": b.oid("full", "main")}
	var wait sync.WaitGroup
	for range 40 {
		for branch, commit := range want {
			wait.Go(func() {
				got, err := b.client.Head(t.Context(), b.on("full", branch))
				if err != nil || got != commit {
					t.Errorf("%q: got %q, %v", branch, got, err)
				}
			})
		}
	}
	wait.Wait()
	if n := len(b.server.Calls("")); n > 3 {
		t.Errorf("%d calls", n)
	}
}

// TestHead_OtherTokenOtherCall: nobody gets an answer that another's token opened.
func TestHead_OtherTokenOtherCall(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	b.server.Break(double.Fault{Delay: 100 * time.Millisecond})
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := b.client.Head(t.Context(), b.on("full", "main")); err != nil {
			t.Error(err)
		}
	})
	wait.Go(func() {
		p := b.on("full", "main")
		p.Gitaly.Token = "wrong"
		_, err := b.client.Head(t.Context(), p)
		b.wantKind(err, fault.Unavailable)
	})
	wait.Wait()
}

// TestHead_Reverts: an old commit that is back within seconds comes from a node that lags behind.
func TestHead_Reverts(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	b.server.SetCache(false)
	c1, c2 := b.oid("full", "feature"), b.oid("full", "main")
	head := func(want string) {
		t.Helper()
		got, err := b.client.Head(t.Context(), b.on("full", "main"))
		if err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	head(c2)
	b.git("full", "", "update-ref", "refs/heads/main", c1)
	head(c1)
	b.wantCalls("InfoRefsUploadPack", "InfoRefsUploadPack")
	b.git("full", "", "update-ref", "refs/heads/main", c2)
	head(c2)
	calls := b.server.Calls("ListRefs")
	if len(calls) != 1 || strings.Join(calls[0].Metadata.Get(routeKey), ",") != primaryOnly {
		t.Errorf("calls %v", calls)
	}
	b.wantCalls("InfoRefsUploadPack", "ListRefs")
	head(c2)
	b.clock.Add(revertTime)
	b.git("full", "", "update-ref", "refs/heads/main", c1)
	head(c1)
	b.wantCalls("InfoRefsUploadPack", "InfoRefsUploadPack")
}

// TestHead_StaleAbsence: a branch that is missing in the cache only is there.
func TestHead_StaleAbsence(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	if _, err := b.client.Head(t.Context(), b.on("full", "main")); err != nil {
		t.Fatal(err)
	}
	b.git("full", "", "update-ref", "refs/heads/new", "main")
	got, err := b.client.Head(t.Context(), b.on("full", "new"))
	if err != nil || got != b.oid("full", "main") {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHead_OwnDeadline(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	b.server.Break(double.Fault{Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := b.client.Head(ctx, b.on("full", "main"))
	b.wantKind(err, fault.DeadlineExceeded)
	before := len(b.server.Calls("")) // the first may have ended on its way
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		defer cancel()
		eventually(t, "the second call has begun", func() bool { return len(b.server.Calls("")) > before })
	}()
	_, err = b.client.Head(ctx, b.on("full", "main"))
	b.wantKind(err, fault.Canceled)
	eventually(t, "both calls have ended at the server", func() bool {
		for _, c := range b.server.Calls("") {
			if !c.Done {
				return false
			}
		}
		return true
	})
}
