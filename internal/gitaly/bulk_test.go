package gitaly

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

// list is what is listed: paths, those of regular files with their id after a space.
func (b *bed) list(p backend.Project, commit, dir string, deep bool) ([]string, error) {
	var found []string
	err := b.client.List(b.Context(), p, commit, dir, deep, func(e backend.Entry) error {
		text := e.Path
		if e.File {
			text += " " + e.ID
		}
		found = append(found, text)
		return nil
	})
	return found, err
}

// blobs reads files; those given with a "?" are asked for by their path only.
func (b *bed) blobs(p backend.Project, commit string, limit int64, paths ...string) (map[string]string, error) {
	var entries []backend.Entry
	for _, path := range paths {
		e := backend.Entry{Path: strings.TrimSuffix(path, "?")}
		if e.Path == path {
			e.ID = b.git("full", "", "rev-parse", commit+":"+path)
		}
		entries = append(entries, e)
	}
	got := map[string]string{}
	err := b.client.Blobs(b.Context(), p, commit, entries, limit, func(e backend.Entry, data []byte) error {
		if _, twice := got[e.Path]; twice || !e.File || e.ID == "" {
			b.Errorf("given: %+v", e)
		}
		got[e.Path] = string(data)
		return nil
	})
	return got, err
}

func everyPersonality(t *testing.T, test func(b *bed)) {
	t.Helper()
	for name, personality := range double.Personalities {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, func(c *double.Config) { c.Personality = personality })
			fixture(b)
			test(b)
		})
	}
}

func TestResolve(t *testing.T) {
	for name, wide := range map[string]bool{"few refs": false, "wide": true} {
		t.Run(name, func(t *testing.T) { everyPersonality(t, func(b *bed) { resolves(b, wide) }) })
	}
}

// resolves asks for refs; wide: by one ref at a time.
func resolves(b *bed, wide bool) {
	p := b.project("full")
	if wide {
		o, err := b.client.operation(p)
		if err != nil {
			b.Fatal(err)
		}
		b.client.memory.setWide(o.key())
	}
	first, second := b.oid("full", "main~1"), b.oid("full", "main")
	for ref, want := range map[backend.Ref]string{
		{}: second, {Branch: "main"}: second, {Branch: "feature"}: first, {Tag: "v1"}: first, {Commit: first}: first,
	} {
		if got, err := b.client.Resolve(b.Context(), p, ref); got != want || err != nil {
			b.Errorf("%s: %q, %v; want %q", ref, got, err, want)
		}
	}
	for _, ref := range []backend.Ref{
		{Branch: "v1"},
		{Tag: "main"},
		{Branch: "refs/heads/main"},
		{Tag: "v1^{}"},
		{Branch: "-x"},
		{Branch: "a..b"},
		{Commit: oid1},
		{Commit: "main"},
		{Commit: first[:10]},
		{Commit: strings.ToUpper(first)},
	} {
		got, err := b.client.Resolve(b.Context(), p, ref)
		b.wantKind(err, fault.NotFound, "group/full")
		if got != "" {
			b.Errorf("%s: %q", ref, got)
		}
	}
}

func TestResolve_EmptyAndMissing(t *testing.T) {
	b := newBed(t, nil)
	b.repo("empty", "sha1")
	for _, ref := range []backend.Ref{{}, {Branch: "main"}, {Tag: "v1"}} {
		if got, err := b.client.Resolve(t.Context(), b.project("empty"), ref); got != "" || err != nil {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
		_, err := b.client.Resolve(t.Context(), b.project("none"), ref)
		b.wantKind(err, fault.Unavailable)
	}
	_, err := b.client.Resolve(t.Context(), b.project("empty"), backend.Ref{Commit: oid1})
	b.wantKind(err, fault.NotFound, "no commit "+oid1)
	// Not believed before the primary says so, too.
	calls := b.server.Calls("FindCommit")
	if n := len(calls); n < 2 || len(calls[n-1].Metadata.Get(routeKey)) != 1 || len(calls[n-2].Metadata.Get(routeKey)) != 0 {
		t.Errorf("calls %v", calls)
	}
	_, err = b.client.Resolve(t.Context(), b.project("none"), backend.Ref{Commit: oid1})
	b.wantKind(err, fault.Unavailable)
}

func TestList(t *testing.T) {
	everyPersonality(t, func(b *bed) {
		p, commit := b.project("full"), b.oid("full", "main")
		at := func(path string) string { return path + " " + b.oid("full", "main:"+path) }
		for _, tt := range []struct {
			dir  string
			deep bool
			want []string
		}{
			{"", false, []string{".gitlab", at("big.bin"), "dir", at("empty.txt"), "link", at("run.sh"), "sp ace", "sub"}},
			{"dir", false, []string{at("dir/ümlaut")}},
			{"dir", true, []string{at("dir/ümlaut")}},
			{".gitlab/agents/demo", true, []string{at(".gitlab/agents/demo/config.yaml"), ".gitlab/agents/demo/more", at(".gitlab/agents/demo/more/config.yaml")}},
		} {
			got, err := b.list(p, commit, tt.dir, tt.deep)
			if err != nil {
				b.Errorf("%s: %v", tt.dir, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				b.Errorf("%s deep %t (-want +got)\n%s", tt.dir, tt.deep, diff)
			}
		}
		for _, deep := range []bool{false, true} {
			for _, dir := range []string{"none", "dir/none", "run.sh", "run.sh/x"} {
				_, err := b.list(p, commit, dir, deep)
				b.wantKind(err, fault.NotFound, dir)
			}
			// Not there (yet): what is missing in such a commit is nothing to act on.
			_, err := b.list(p, oid1, "", deep)
			b.wantKind(err, fault.Unavailable)
			_, err = b.list(b.project("none"), commit, "", deep)
			b.wantKind(err, fault.Unavailable)
		}
		_, err := b.list(p, "main", "", false)
		b.wantKind(err, fault.InvalidArgument)
	})
}

func TestList_EmptyTree(t *testing.T) {
	b := newBed(t, nil)
	b.repo("bare", "sha1", commit("refs/heads/main"))
	got, err := b.list(b.project("bare"), b.oid("bare", "main"), "", true)
	if err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestList_VisitorStops(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	enough, seen := errors.New("enough"), 0
	err := b.client.List(t.Context(), b.project("full"), b.oid("full", "main"), "", true, func(backend.Entry) error {
		if seen++; seen == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || seen != 3 || fault.KindOf(err) != fault.Internal {
		t.Errorf("%d seen, %v", seen, err)
	}
	b.wantCalls("GetTreeEntries")
}

// TestBulk_ReplicaLagsBehind: the first node does not have the commit yet.
func TestBulk_ReplicaLagsBehind(t *testing.T) {
	b := newBed(t, func(c *double.Config) { c.Personality = double.V16_2 })
	fixture(b)
	p, commit := b.project("full"), b.oid("full", "main")
	l := &liar{commit: nil}
	_, err := b.list(l.start(b), commit, "", false)
	b.wantKind(err, fault.Unavailable, "commit "+commit+" is not there")
	_, err = b.blobs(l.start(b), commit, 100, "run.sh")
	b.wantKind(err, fault.Unavailable)
	_, err = b.blobs(p, commit, 100, "run.sh", "none?")
	b.wantKind(err, fault.NotFound, "no such file", "none")
	b.wantCalls("GetBlobs", "FindCommit", "GetBlobs")
}

func TestBlobs(t *testing.T) {
	for name, fallback := range map[string]bool{"at once": false, "one by one": true} {
		t.Run(name, func(t *testing.T) { everyPersonality(t, func(b *bed) { readsBlobs(b, fallback) }) })
	}
}

// readsBlobs reads files; fallback: from a server that knows no bulk reads.
func readsBlobs(b *bed, fallback bool) {
	if fallback {
		b.server.Break(double.Fault{Method: "GetBlobs", Code: codes.Unimplemented, Message: "unknown method"})
	}
	p, commit := b.project("full"), b.oid("full", "main")
	b.server.SetChunks(1, 4000, 32<<10)
	got, err := b.blobs(p, commit, 300_000, "run.sh", "empty.txt", "big.bin", "sp ace/f ile.txt", "dir/ümlaut?", configPath+"?")
	if err != nil {
		b.Fatal(err)
	}
	want := map[string]string{
		"run.sh": "a", "empty.txt": "", "big.bin": strings.Repeat("0123456789", 30000), "sp ace/f ile.txt": "space", "dir/ümlaut": "utf-8", configPath: configText,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.Errorf("(-want +got)\n%s", diff)
	}
	for path, kind := range map[string]string{"link": "symbolic link", "dir": "folder", "sub": "submodule"} {
		_, err := b.blobs(p, commit, 100, "run.sh?", path+"?")
		b.wantKind(err, fault.FailedPrecondition, path+" is not a regular file: it is a "+kind)
	}
	_, err = b.blobs(p, commit, 299_999, "run.sh?", "big.bin?")
	b.wantKind(err, fault.FailedPrecondition, "big.bin is too big: 300000 bytes, at most 299999 are allowed")
	_, err = b.blobs(p, commit, 100, "none?")
	b.wantKind(err, fault.NotFound, "none")
	_, err = b.blobs(p, oid1, 100, "run.sh?")
	b.wantKind(err, fault.Unavailable)
	_, err = b.blobs(b.project("none"), commit, 100, "run.sh")
	b.wantKind(err, fault.Unavailable)
	if calls := len(b.server.Calls("GetBlobs")); fallback && calls != 1 {
		b.Errorf("a server without GetBlobs was asked %d times", calls)
	}
}

func TestBlobs_Arguments(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	p, commit := b.project("full"), b.oid("full", "main")
	for _, path := range []string{"?", "a\x00b?", "dir/?"} {
		_, err := b.blobs(p, commit, 100, path)
		b.wantKind(err, fault.InvalidArgument)
	}
	_, err := b.blobs(p, "main", 100, "run.sh?")
	b.wantKind(err, fault.InvalidArgument)
	_, err = b.blobs(p, commit, 0, "run.sh?")
	b.wantKind(err, fault.InvalidArgument)
	if got, err := b.blobs(p, commit, 1); err != nil || len(got) != 0 {
		t.Errorf("nothing asked for: %v, %v", got, err)
	}
	b.wantCalls()
}

// TestBlobs_Batches: many files cost few calls, all of one session.
func TestBlobs_Batches(t *testing.T) {
	b := newBed(t, nil)
	var changes []string
	for i := range 600 {
		changes = append(changes, add("100644", fmt.Sprintf("%d.yaml", i), fmt.Sprint(i)))
	}
	b.repo("full", "sha1", commit("refs/heads/main", changes...))
	p, id := b.project("full"), b.oid("full", "main")
	var entries []backend.Entry
	if err := b.client.List(t.Context(), p, id, "", false, func(e backend.Entry) error {
		entries = append(entries, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := b.client.Blobs(t.Context(), p, id, entries, 100, func(e backend.Entry, data []byte) error {
		if entries[n].Path != e.Path || e.Path != string(data)+".yaml" {
			t.Errorf("%d: %s %q", n, e.Path, data)
		}
		n++
		return nil
	})
	if err != nil || n != 600 {
		t.Errorf("%d files, %v", n, err)
	}
	sessions := map[string]bool{}
	for _, c := range b.server.Calls("") {
		sessions[strings.Join(c.Metadata.Get(sessionKey), ",")] = true
	}
	if len(sessions) != 1 || sessions[""] {
		t.Errorf("sessions %v", sessions)
	}
	b.wantCalls("GetTreeEntries", "GetBlobs", "GetBlobs", "GetBlobs")

	enough := errors.New("enough")
	err = b.client.Blobs(t.Context(), p, id, entries, 100, func(backend.Entry, []byte) error { return enough })
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	b.wantCalls("GetBlobs")
}

func TestBlobs_BreaksOff(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	p, id := b.project("full"), b.oid("full", "main")
	for _, code := range []codes.Code{codes.Unavailable, codes.Internal, codes.NotFound, codes.FailedPrecondition, codes.InvalidArgument, codes.Unimplemented} {
		b.server.Break(double.Fault{Method: "GetBlobs", Code: code, Message: "died", After: 1})
		_, err := b.blobs(p, id, 100, "run.sh", "empty.txt")
		b.wantKind(err, fault.Unavailable)
		b.server.Mend()
	}
	if got, err := b.blobs(p, id, 100, "run.sh"); err != nil || got["run.sh"] != "a" {
		t.Errorf("%v, %v", got, err)
	}
}
