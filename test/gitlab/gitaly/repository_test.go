package gitaly

import (
	"testing"

	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/api/gitaly"
)

func TestRepositoryErrors(t *testing.T) {
	f := newFixture(t)
	type want struct {
		code    codes.Code
		message string
	}
	same := func(w want) map[Personality]want { return map[Personality]want{V13_12: w, V16_2: w, V18: w} }
	tests := map[string]struct {
		repository *gitaly.Repository
		want       map[Personality]want
	}{
		"none":       {nil, same(want{codes.InvalidArgument, "repository not set"})},
		"no path":    {&gitaly.Repository{StorageName: storage}, same(want{codes.InvalidArgument, "repository path not set"})},
		"no storage": {&gitaly.Repository{RelativePath: full}, same(want{codes.InvalidArgument, "storage name not set"})},
		"unknown storage": {&gitaly.Repository{StorageName: "x", RelativePath: full}, map[Personality]want{
			V13_12: {codes.InvalidArgument, "no such storage"}, V16_2: {codes.InvalidArgument, "storage name not found"}, V18: {codes.InvalidArgument, "storage name not found"},
		}},
		"storage without directory": {&gitaly.Repository{StorageName: "nowhere", RelativePath: full}, map[Personality]want{
			V13_12: {codes.Internal, ""}, V16_2: {codes.NotFound, "storage does not exist"}, V18: {codes.NotFound, "storage does not exist"},
		}},
		"escapes": {repo("../x"), same(want{codes.InvalidArgument, "relative path escapes root directory"})},
		"missing": {repo("missing.git"), map[Personality]want{
			V13_12: {codes.NotFound, "GetRepoPath: not a git repository"}, V16_2: {codes.NotFound, "repository not found"}, V18: {codes.NotFound, "repository not found"},
		}},
		"not valid": {repo("B"), map[Personality]want{
			V13_12: {codes.NotFound, "GetRepoPath: not a git repository"}, V16_2: {codes.FailedPrecondition, "repository not valid"}, V18: {codes.FailedPrecondition, "repository not valid"},
		}},
	}
	for _, p := range []Personality{V13_12, V16_2, V18} {
		c := startOn(t, f, Config{Personality: p})
		for name, test := range tests {
			t.Run(p.version()+" "+name, func(t *testing.T) {
				w := test.want[p]
				_, err := c.findCommit(t, test.repository, "HEAD")
				wantStatus(t, err, w.code, w.message)
				_, err = c.advertisement(t, &gitaly.InfoRefsRequest{Repository: test.repository})
				wantStatus(t, err, w.code, w.message)
				_, err = receive(gitaly.NewCommitServiceClient(c.conn).TreeEntry(c.ctx(t), &gitaly.TreeEntryRequest{Repository: test.repository, Revision: []byte("HEAD"), Path: []byte("x")}))
				wantStatus(t, err, w.code, w.message)
				_, err = receive(gitaly.NewCommitServiceClient(c.conn).GetTreeEntries(c.ctx(t), &gitaly.GetTreeEntriesRequest{Repository: test.repository, Revision: []byte("HEAD"), Path: []byte(".")}))
				wantStatus(t, err, w.code, w.message)
			})
		}
	}
}

func TestPraefect(t *testing.T) {
	f := newFixture(t)
	c := startOn(t, f, Config{Praefect: true})
	_, err := c.findCommit(t, &gitaly.Repository{StorageName: "x", RelativePath: full}, "HEAD")
	wantStatus(t, err, codes.InvalidArgument, "storage name not found")
	old := startOn(t, f, Config{Praefect: true, Personality: V13_12})
	_, err = old.findCommit(t, repo("missing.git"), "HEAD")
	wantStatus(t, err, codes.NotFound, `repository "default"/"missing.git" not found`)
	_, err = receive(gitaly.NewRefServiceClient(old.conn).ListRefs(old.ctx(t), &gitaly.ListRefsRequest{Repository: repo(full), Patterns: [][]byte{[]byte("refs/heads/main")}}))
	wantStatus(t, err, codes.Internal, "full method name not found")
	err = c.conn.Invoke(c.ctx(t), "/gitaly.CommitService/NoSuchMethod", &gitaly.FindCommitRequest{}, &gitaly.FindCommitResponse{})
	wantStatus(t, err, codes.Internal, "full method name not found")
}
