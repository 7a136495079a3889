package gitaly

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/gitaly"
)

func TestFindCommit(t *testing.T) {
	c := start(t, Config{})
	zero := strings.Repeat("0", 40)
	for _, test := range []struct{ path, revision, want string }{
		{full, "HEAD", c.c2},
		{full, "refs/heads/feature", c.c1},
		{full, "refs/tags/v1", c.c1},
		{full, c.c1, c.c1},
		{full, c.c1[:10], c.c1},
		{full, "HEAD^{tree}", ""},
		{full, "refs/heads/none", ""},
		{full, zero, ""},
		{full, strings.Repeat("a", 40), ""},
		{"E", "HEAD", ""},
		{"U", "HEAD", ""},
		{"SE", "HEAD", ""},
	} {
		got, err := c.findCommit(t, repo(test.path), test.revision)
		if err != nil || got.GetId() != test.want || (test.want == "") != (got == nil) {
			t.Errorf("%s %s: %v, %v", test.path, test.revision, got, err)
		}
	}
	_, err := c.findCommit(t, repo(full), "")
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.findCommit(t, repo(full), "-x")
	wantCode(t, err, codes.InvalidArgument)
	got, err := c.findCommit(t, repo(full), c.c1)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.GetSubject()) != "First" || string(got.GetBody()) != "First\n\nWith a body." || got.GetBodySize() != 19 ||
		string(got.GetAuthor().GetName()) != "ci-user" || string(got.GetCommitter().GetEmail()) != "ci-user@acme.test" ||
		got.GetAuthor().GetDate().GetSeconds() != 1_700_000_000 || string(got.GetAuthor().GetTimezone()) != "+0100" || len(got.GetTreeId()) != 40 {
		t.Errorf("%v", got)
	}
	long, err := c.findCommit(t, repo("S"), "HEAD")
	if err != nil || len(long.GetId()) != 64 {
		t.Errorf("SHA-256: %v, %v", long, err)
	}
}

func TestFindDefaultBranchName(t *testing.T) {
	c := start(t, Config{})
	ask := func(path string, headOnly bool) (string, error) {
		response, err := gitaly.NewRefServiceClient(c.conn).FindDefaultBranchName(c.ctx(t), &gitaly.FindDefaultBranchNameRequest{Repository: repo(path), HeadOnly: headOnly})
		return string(response.GetName()), err
	}
	for _, test := range []struct {
		path     string
		headOnly bool
		want     string
	}{
		{full, false, "refs/heads/main"},
		{"E", false, ""},
		{"U", false, "refs/heads/main"},
		{"T", false, ""},
		{"E", true, "refs/heads/main"},
		{"U", true, "refs/heads/gone"},
		{"S", false, "refs/heads/main"},
	} {
		if got, err := ask(test.path, test.headOnly); err != nil || got != test.want {
			t.Errorf("%s head only %t: %q, %v", test.path, test.headOnly, got, err)
		}
	}
	for _, headOnly := range []bool{false, true} {
		_, err := ask("D", headOnly)
		wantCode(t, err, codes.Internal)
	}
}

func TestListRefs(t *testing.T) {
	c := start(t, Config{})
	ask := func(request *gitaly.ListRefsRequest) ([]string, error) {
		request.Repository = repo(full)
		messages, err := receive(gitaly.NewRefServiceClient(c.conn).ListRefs(c.ctx(t), request))
		var all []string
		for _, m := range messages {
			for _, r := range m.GetReferences() {
				all = append(all, string(r.GetName())+"="+r.GetTarget()[:6]+"^"+r.GetPeeledTarget())
			}
		}
		return all, err
	}
	got, err := ask(&gitaly.ListRefsRequest{Patterns: [][]byte{[]byte("refs/heads/main")}})
	if want := []string{"refs/heads/main=" + c.c2[:6] + "^"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	got, err = ask(&gitaly.ListRefsRequest{Patterns: [][]byte{[]byte("refs/tags/v1")}, PeelTags: true})
	if err != nil || len(got) != 1 || !strings.HasSuffix(got[0], "^"+c.c1) {
		t.Errorf("%q, %v", got, err)
	}
	got, err = ask(&gitaly.ListRefsRequest{Patterns: [][]byte{[]byte("refs/keep-around/")}, Head: true})
	if err != nil || len(got) != 2 || !strings.HasPrefix(got[0], "HEAD=") {
		t.Errorf("%q, %v", got, err)
	}
	if got, err = ask(&gitaly.ListRefsRequest{Patterns: [][]byte{[]byte("refs/heads/none")}, Head: true}); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	_, err = ask(&gitaly.ListRefsRequest{})
	wantCode(t, err, codes.InvalidArgument)
}

func TestFindBranch(t *testing.T) {
	c := start(t, Config{})
	ask := func(name string) (*gitaly.Branch, error) {
		response, err := gitaly.NewRefServiceClient(c.conn).FindBranch(c.ctx(t), &gitaly.FindBranchRequest{Repository: repo(full), Name: []byte(name)})
		return response.GetBranch(), err
	}
	if b, err := ask("feature"); err != nil || b.GetTargetCommit().GetId() != c.c1 {
		t.Errorf("%v, %v", b, err)
	}
	if b, err := ask("refs/heads/feature"); err != nil || b != nil {
		t.Errorf("%v, %v", b, err)
	}
	_, err := ask("")
	wantCode(t, err, codes.InvalidArgument)
}

func TestGetBlobs(t *testing.T) {
	c := start(t, Config{})
	items := []*gitaly.GetBlobsRequest_RevisionPath{
		{Revision: "HEAD", Path: []byte("run.sh")},
		{Revision: "HEAD", Path: []byte("nothing")},
		{Revision: "none", Path: []byte("run.sh")},
		{Revision: "HEAD", Path: []byte("manifests/")},
		{Revision: "refs/heads/feature", Path: []byte("sub")},
		{Revision: "HEAD", Path: []byte("big.bin")},
	}
	ask := func(request *gitaly.GetBlobsRequest) ([]*gitaly.GetBlobsResponse, error) {
		request.Repository = repo(full)
		messages, err := receive(gitaly.NewBlobServiceClient(c.conn).GetBlobs(c.ctx(t), request))
		var joined []*gitaly.GetBlobsResponse
		for _, m := range messages {
			if len(m.GetPath()) > 0 || m.GetRevision() != "" {
				joined = append(joined, proto.CloneOf(m))
				continue
			}
			last := joined[len(joined)-1]
			last.Data = append(last.Data, m.GetData()...)
		}
		return joined, err
	}
	got, err := ask(&gitaly.GetBlobsRequest{RevisionPaths: items, Limit: -1})
	if err != nil || len(got) != len(items) {
		t.Fatalf("%d items, %v", len(got), err)
	}
	if string(got[0].GetData()) != "echo 2\n" || got[0].GetType() != gitaly.ObjectType_BLOB || got[1].GetOid() != "" || got[2].GetOid() != "" ||
		got[3].GetType() != gitaly.ObjectType_TREE || string(got[3].GetPath()) != "manifests" || !got[4].GetIsSubmodule() || len(got[5].GetData()) != 300_000 {
		t.Errorf("%v", got[:5])
	}
	for limit, want := range map[int64]int{0: 0, 4: 4} {
		got, err := ask(&gitaly.GetBlobsRequest{RevisionPaths: items[:1], Limit: limit})
		if err != nil || len(got[0].GetData()) != want || got[0].GetSize() != 7 {
			t.Errorf("limit %d: %v, %v", limit, got, err)
		}
	}
	// Many files of one call, some of them cut.
	items = items[:1]
	for range 50 {
		items = append(items, &gitaly.GetBlobsRequest_RevisionPath{Revision: c.c2, Path: []byte("big.bin")}, &gitaly.GetBlobsRequest_RevisionPath{Revision: c.c1, Path: []byte("run.sh")})
	}
	for _, limit := range []int64{7, 300_000} {
		got, err := ask(&gitaly.GetBlobsRequest{RevisionPaths: items, Limit: limit})
		if err != nil || len(got) != len(items) {
			t.Fatalf("%d items, %v", len(got), err)
		}
		for i, item := range got[1:] {
			want := "echo 1\n"
			if i%2 == 0 {
				want = strings.Repeat("0123456789", 30_000)[:limit]
			}
			if string(item.GetData()) != want || string(item.GetPath()) != string(items[i+1].GetPath()) {
				t.Fatalf("item %d of limit %d: %d bytes of %s", i, limit, len(item.GetData()), item.GetPath())
			}
		}
	}
	_, err = ask(&gitaly.GetBlobsRequest{Limit: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = ask(&gitaly.GetBlobsRequest{RevisionPaths: []*gitaly.GetBlobsRequest_RevisionPath{{Revision: "-x", Path: []byte("f")}}})
	wantCode(t, err, codes.InvalidArgument)
}

func TestObjectFormatAndServerInfo(t *testing.T) {
	f := newFixture(t)
	c := startOn(t, f, Config{})
	for path, want := range map[string]gitaly.ObjectFormat{full: 1, "S": 2, "SE": 2} {
		got, err := gitaly.NewRepositoryServiceClient(c.conn).ObjectFormat(c.ctx(t), &gitaly.ObjectFormatRequest{Repository: repo(path)})
		if err != nil || got.GetFormat() != want {
			t.Errorf("%s: %v, %v", path, got, err)
		}
	}
	info, err := gitaly.NewServerServiceClient(c.conn).ServerInfo(c.ctx(t), &gitaly.ServerInfoRequest{})
	if err != nil || info.GetServerVersion() != "18.3.2" || info.GetGitVersion() == "" || len(info.GetStorageStatuses()) != 2 {
		t.Errorf("%v, %v", info, err)
	}
	old := startOn(t, f, Config{Personality: V13_12})
	_, err = gitaly.NewRepositoryServiceClient(old.conn).ObjectFormat(old.ctx(t), &gitaly.ObjectFormatRequest{Repository: repo(full)})
	wantCode(t, err, codes.Unimplemented)
	_, err = receive(gitaly.NewRefServiceClient(old.conn).ListRefs(old.ctx(t), &gitaly.ListRefsRequest{Repository: repo(full), Patterns: [][]byte{[]byte("refs/")}}))
	wantCode(t, err, codes.Unimplemented)
}

func TestWriteRef(t *testing.T) {
	c := start(t, Config{})
	write := func(request *gitaly.WriteRefRequest) error {
		request.Repository = repo(full)
		_, err := gitaly.NewRepositoryServiceClient(c.conn).WriteRef(c.ctx(t), request)
		return err
	}
	wantCode(t, write(&gitaly.WriteRefRequest{Ref: []byte("main"), Revision: []byte(c.c1)}), codes.InvalidArgument)
	wantCode(t, write(&gitaly.WriteRefRequest{Ref: []byte("refs/heads/main"), Revision: []byte(c.c1), OldRevision: []byte(c.c1)}), codes.Internal)
	wantCode(t, write(&gitaly.WriteRefRequest{Ref: []byte("HEAD"), Revision: []byte("refs/heads/feature")}), codes.OK)
	if got, err := c.findCommit(t, repo(full), "HEAD"); err != nil || got.GetId() != c.c1 {
		t.Errorf("%v, %v", got.GetId(), err)
	}
}

func TestFaults(t *testing.T) {
	c := start(t, Config{})
	c.server.Break(Fault{Method: "FindCommit", Code: codes.Unavailable, Message: "gone", Times: 2})
	for range 2 {
		_, err := c.findCommit(t, repo(full), "HEAD")
		wantStatus(t, err, codes.Unavailable, "gone")
	}
	_, err := c.findCommit(t, repo(full), "HEAD")
	wantCode(t, err, codes.OK)
	c.server.Break(c.server.Busy("", 3*time.Second))
	_, err = c.findCommit(t, repo(full), "HEAD")
	wantCode(t, err, codes.ResourceExhausted)
	details := status.Convert(err).Details()
	if limit, ok := details[0].(*gitaly.LimitError); !ok || limit.GetRetryAfter().AsDuration() != 3*time.Second {
		t.Errorf("details %v", details)
	}
	c.server.Mend()
	c.server.SetChunks(1000)
	c.server.Break(Fault{Method: "TreeEntry", Code: codes.Internal, After: 3})
	got, err := c.entry(t, entry("HEAD", "big.bin"))
	wantCode(t, err, codes.Internal)
	if len(got) != 3 {
		t.Errorf("%d messages before the error", len(got))
	}
}

func TestFaults_DeadlineAndCancel(t *testing.T) {
	c := start(t, Config{})
	c.server.Break(Fault{Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := gitaly.NewCommitServiceClient(c.conn).FindCommit(ctx, &gitaly.FindCommitRequest{Repository: repo(full), Revision: []byte("HEAD")})
	wantCode(t, err, codes.DeadlineExceeded)
	c.server.Mend()
	c.server.SetChunks(1)
	ctx, stop := context.WithCancel(t.Context())
	stream, err := gitaly.NewCommitServiceClient(c.conn).TreeEntry(ctx, &gitaly.TreeEntryRequest{Repository: repo(full), Revision: []byte("HEAD"), Path: []byte("big.bin")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, err, codes.Canceled)
	deadline := time.Now().Add(time.Minute)
	for !slices.ContainsFunc(c.server.Calls("TreeEntry"), func(call Call) bool { return call.Done }) {
		if time.Now().After(deadline) {
			t.Fatal("the server's stream does not end")
		}
	}
}

func TestRecord(t *testing.T) {
	c := start(t, Config{})
	c.md = metadata.Pairs("x-gitlab-correlation-id", "42", "gitaly-feature-a", "true")
	if _, err := c.findCommit(t, repo(full), "HEAD"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.entry(t, entry("HEAD", "run.sh")); err != nil {
		t.Fatal(err)
	}
	calls := c.server.Calls("")
	if len(calls) != 2 || calls[0].Method != "FindCommit" || calls[0].Metadata.Get("x-gitlab-correlation-id")[0] != "42" ||
		string(calls[0].Request.(*gitaly.FindCommitRequest).GetRevision()) != "HEAD" ||
		string(calls[1].Request.(*gitaly.TreeEntryRequest).GetPath()) != "run.sh" {
		t.Errorf("%v", calls)
	}
	c.server.ForgetCalls()
	if got := c.server.Calls(""); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestStart_UnixSocket(t *testing.T) {
	f := newFixture(t)
	server, err := Start(Config{Storages: map[string]string{storage: f.dir}, Socket: f.dir + "/g.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if got, want := server.UnixAddress(), "unix:"+f.dir+"/g.sock"; got != want {
		t.Errorf("address %s, want %s", got, want)
	}
	if _, err := Start(Config{Socket: f.dir + "/no/such/folder/g.sock"}); err == nil {
		t.Error("no error for a socket that cannot be")
	}
}

func TestPersonalityOf(t *testing.T) {
	for _, test := range []struct {
		major, minor int
		want         Personality
	}{{13, 0, V13_0}, {13, 6, V13_12}, {14, 9, V16_2}, {16, 2, V16_2}, {16, 3, V16_5}, {16, 8, V16_11}, {17, 0, V18}, {18, 9, V18}} {
		if got := PersonalityOf(test.major, test.minor); got != test.want {
			t.Errorf("%d.%d: %v, want %v", test.major, test.minor, got, test.want)
		}
	}
}
