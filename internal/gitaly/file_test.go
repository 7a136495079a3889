package gitaly

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

// findCommitOnce is a call for tests of what is around calls.
func findCommitOnce(o *operation) func(context.Context, grpc.ClientConnInterface) error {
	return func(ctx context.Context, cc grpc.ClientConnInterface) error {
		_, err := gitalypb.NewCommitServiceClient(cc).FindCommit(ctx, &gitalypb.FindCommitRequest{
			Repository: o.repository, Revision: []byte(headRef),
		})
		return err
	}
}

func TestFile_EveryRelease(t *testing.T) {
	big := strings.Repeat("0123456789", 30000)
	for name, personality := range double.Personalities {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, func(c *double.Config) { c.Personality = personality })
			fixture(b)
			p, head := b.on("full", "main"), b.oid("full", "feature")
			for path, want := range map[string]string{
				configPath: configText, "empty.txt": "", "run.sh": "#!/bin/sh\n", "sp ace/f ile.txt": "space", "dir/ümlaut": "utf-8", "big.bin": big,
			} {
				got, err := b.client.File(t.Context(), p, head, path, 300000)
				if err != nil || string(got) != want {
					t.Errorf("%s: got %d bytes, %v, want %d", path, len(got), err, len(want))
				}
			}
			for path, kind := range map[string]string{".gitlab": "folder", ".gitlab/": "folder", "sub": "submodule", "link": "symbolic link"} {
				_, err := b.client.File(t.Context(), p, head, path, 1000)
				b.wantKind(err, fault.FailedPrecondition, "group/full", path, "not a regular file", kind)
			}
			for _, path := range []string{"none", "none/none", "run.sh/none", "/run.sh", "./run.sh", ".", "/", "../x", "dir/../run.sh"} {
				_, err := b.client.File(t.Context(), p, head, path, 1000)
				b.wantKind(err, fault.NotFound, "group/full", path, head)
			}
			_, err := b.client.File(t.Context(), p, head, "big.bin", 299999)
			b.wantKind(err, fault.FailedPrecondition, "group/full", "big.bin", "300000 bytes, at most 299999 are allowed")
			_, err = b.client.File(t.Context(), p, oid3, "run.sh", 1000)
			b.wantKind(err, fault.Unavailable, "commit "+oid3+" is not there")
		})
	}
}

func TestFile_SHA256(t *testing.T) {
	b := newBed(t, nil)
	b.repo("sha256", "sha256", commit("refs/heads/main", add("100644", "d/f", "content")))
	got, err := b.client.File(t.Context(), b.project("sha256"), b.oid("sha256", "main"), "d/f", 1000)
	if err != nil || string(got) != "content" {
		t.Errorf("got %q, %v", got, err)
	}
	// An id of the other format is at best the beginning of one.
	_, err = b.client.File(t.Context(), b.project("sha256"), oid1, "d/f", 1000)
	b.wantKind(err, fault.Unavailable)
	b.repo("empty", "sha1")
	_, err = b.client.File(t.Context(), b.project("empty"), oid1, "f", 1000)
	b.wantKind(err, fault.Unavailable)
}

func TestFile_BadQuestions(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	p, head := b.project("full"), b.oid("full", "main")
	for _, commit := range []string{"", "main", "HEAD", head[:39], head + "0", strings.ToUpper(head), "refs/heads/main"} {
		_, err := b.client.File(t.Context(), p, commit, "run.sh", 1)
		b.wantKind(err, fault.InvalidArgument, "not a commit id")
	}
	for _, path := range []string{"", "a\x00b"} {
		_, err := b.client.File(t.Context(), p, head, path, 1)
		b.wantKind(err, fault.InvalidArgument, "not the path of a file")
	}
	for _, limit := range []int64{0, -1} { // would mean "any size", or be refused
		_, err := b.client.File(t.Context(), p, head, "empty.txt", limit)
		b.wantKind(err, fault.FailedPrecondition, "empty.txt", "too big")
	}
	b.wantCalls()
}

func TestFile_Pieces(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for _, sizes := range [][]int{{1}, {4, 32 << 10}, {128 << 10}} {
		b.server.SetChunks(sizes...)
		got, err := b.client.File(t.Context(), b.project("full"), b.oid("full", "main"), configPath, 1000)
		if err != nil || string(got) != configText {
			t.Errorf("pieces of %v: got %q, %v", sizes, got, err)
		}
	}
}

// TestFile_Burst: the calls that belong together share a session, those of later do not.
func TestFile_Burst(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	read := func() string {
		t.Helper()
		_, err := b.client.File(t.Context(), b.project("full"), b.oid("full", "main"), "none", 1000)
		b.wantKind(err, fault.NotFound)
		calls := b.server.Calls("")
		b.wantCalls("TreeEntry", "FindCommit", "TreeEntry")
		if len(calls) != 3 {
			t.FailNow()
		}
		session := calls[0].Metadata.Get(sessionKey)
		for i, c := range calls {
			if s := c.Metadata.Get(sessionKey); len(s) != 1 || s[0] != session[0] {
				t.Errorf("sessions %v, %v", session, s)
			}
			if primary := len(c.Metadata.Get(routeKey)) == 1; primary != (i > 0) {
				t.Errorf("call %d at the primary: %v", i, primary)
			}
		}
		return session[0]
	}
	first := read()
	if read() != first {
		t.Error("another session within a burst")
	}
	b.clock.Add(sessionTime)
	if read() == first {
		t.Error("the same session after the burst")
	}
}

// TestFile_ReplicaBehind: a node that does not have the commit yet is not believed.
func TestFile_ReplicaBehind(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for _, text := range []string{"tree entry not found", "not found: run.sh"} {
		b.server.Break(double.Fault{Method: "TreeEntry", Code: codes.NotFound, Message: text, Times: 1})
		got, err := b.client.File(t.Context(), b.project("full"), b.oid("full", "main"), "run.sh", 1000)
		if err != nil || string(got) != "a" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	b.server.Break(double.Fault{Method: "FindCommit", Code: codes.Internal, Message: "broken"})
	_, err := b.client.File(t.Context(), b.project("full"), b.oid("full", "main"), "none", 1000)
	b.wantKind(err, fault.Unavailable, "broken")
}

func TestIsMissingEntry(t *testing.T) {
	for text, want := range map[string]bool{
		"tree entry not found":                   true,
		"rpc error: tree entry not found":        true,
		"not found: a/b":                         true,
		"not found: repository not found":        false,
		"repository not found":                   false,
		"GetRepoPath: not a git repository":      false,
		`repository "v"/"p" not found`:           false,
		"storage does not exist":                 false,
		"":                                       false,
		"something of the future is not there":   false,
		`repository "v"/"not found: x" not foun`: true,
	} {
		if got := isMissingEntry(status.Error(codes.NotFound, text), "a/b"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	if isMissingEntry(status.Error(codes.Internal, "tree entry not found"), "a") || isMissingEntry(nil, "a") || isMissingEntry(errors.New("x"), "a") {
		t.Error("only NotFound means it")
	}
}

// stream is an answer of TreeEntry that no good server gives.
type stream struct {
	grpc.ServerStreamingClient[gitalypb.TreeEntryResponse]
	pieces []*gitalypb.TreeEntryResponse
}

func (s *stream) Recv() (*gitalypb.TreeEntryResponse, error) {
	if len(s.pieces) == 0 {
		return nil, errors.New("read too far")
	}
	piece := s.pieces[0]
	s.pieces = s.pieces[1:]
	return piece, nil
}

// TestFile_CountsItself: servers that ignore the limit, or lie about the size, do not fill the memory.
func TestFile_CountsItself(t *testing.T) {
	f := &file{operation: &operation{project: "group/full"}, path: "big", limit: 10}
	blob := func(size int64, mode int32) *gitalypb.TreeEntryResponse {
		return &gitalypb.TreeEntryResponse{Type: gitalypb.TreeEntryResponse_BLOB, Oid: oid1, Size: size, Mode: mode, Data: []byte("12345")}
	}
	for name, test := range map[string]struct {
		first *gitalypb.TreeEntryResponse
		want  string
	}{
		"too big":       {blob(11, 0o100644), "big is too big: 11 bytes, at most 10 are allowed"},
		"negative size": {blob(-1, 0o100644), "negative size"},
		"strange mode":  {blob(1, 0o140000), "not a regular file: it is a thing of mode 140000"},
		"tag":           {&gitalypb.TreeEntryResponse{Type: gitalypb.TreeEntryResponse_TAG, Oid: oid1}, "not a regular file"},
	} {
		if err := f.check(test.first); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	first := blob(10, 0o100644)
	if err := f.check(first); err != nil {
		t.Error(err)
	}
	endless := &stream{pieces: []*gitalypb.TreeEntryResponse{{Data: []byte("12345")}, {Data: []byte("1")}}}
	if _, err := f.receive(first, endless); err == nil || !strings.Contains(err.Error(), "another size") || len(endless.pieces) != 0 {
		t.Errorf("got %v", err)
	}
}

func TestLargerNumber(t *testing.T) {
	for text, want := range map[string]int64{
		"object size (300000) is bigger than the maximum allowed size (299999)": 300000,
		"TreeEntry: object size (300000) > 299999":                              300000,
		"too big": 0, "299999": 0, "99999999999999999999999": 0, "": 0,
	} {
		if got := largerNumber(text, 299999); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	f := &file{operation: &operation{project: "group/full"}, path: "big", limit: 10}
	if got, want := fmt.Sprint(f.tooBig(0)), `project "group/full": big is too big: at most 10 bytes are allowed`; got != want {
		t.Errorf("got %q", got)
	}
}
