package gitaly

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

// liar is a server that gives answers no Gitaly gives.
type liar struct {
	gitalypb.UnimplementedSmartHTTPServiceServer
	gitalypb.UnimplementedCommitServiceServer
	gitalypb.UnimplementedRefServiceServer
	gitalypb.UnimplementedBlobServiceServer

	advertisement string
	entry         []*gitalypb.TreeEntryResponse
	entries       int
	entriesErr    error
	entryID       string
	commit        *gitalypb.GitCommit
	refs          []*gitalypb.ListRefsResponse_Reference
	blobs         []*gitalypb.GetBlobsResponse
	blobsErr      error
}

func (l *liar) InfoRefsUploadPack(_ *gitalypb.InfoRefsRequest, stream gitalypb.SmartHTTPService_InfoRefsUploadPackServer) error {
	return stream.Send(&gitalypb.InfoRefsResponse{Data: []byte(l.advertisement)})
}

func (l *liar) TreeEntry(_ *gitalypb.TreeEntryRequest, stream gitalypb.CommitService_TreeEntryServer) error {
	for _, piece := range l.entry {
		if err := stream.Send(piece); err != nil {
			return err
		}
	}
	return nil
}

func (l *liar) GetTreeEntries(_ *gitalypb.GetTreeEntriesRequest, stream gitalypb.CommitService_GetTreeEntriesServer) error {
	const each = 1000
	for range l.entries / each {
		piece := &gitalypb.GetTreeEntriesResponse{}
		for range each {
			piece.Entries = append(piece.Entries, &gitalypb.TreeEntry{Path: []byte("a"), Oid: l.entryID})
		}
		if err := stream.Send(piece); err != nil {
			return err
		}
	}
	return l.entriesErr
}

func (l *liar) GetBlobs(_ *gitalypb.GetBlobsRequest, stream gitalypb.BlobService_GetBlobsServer) error {
	for _, piece := range l.blobs {
		if err := stream.Send(piece); err != nil {
			return err
		}
	}
	return l.blobsErr
}

func (l *liar) FindCommit(context.Context, *gitalypb.FindCommitRequest) (*gitalypb.FindCommitResponse, error) {
	return &gitalypb.FindCommitResponse{Commit: l.commit}, nil
}

func (l *liar) ListRefs(_ *gitalypb.ListRefsRequest, stream gitalypb.RefService_ListRefsServer) error {
	return stream.Send(&gitalypb.ListRefsResponse{References: l.refs})
}

func (l *liar) FindDefaultBranchName(context.Context, *gitalypb.FindDefaultBranchNameRequest) (*gitalypb.FindDefaultBranchNameResponse, error) {
	return &gitalypb.FindDefaultBranchNameResponse{Name: []byte("refs/heads/main")}, nil
}

// start serves on a unix socket and returns the project to ask for.
func (l *liar) start(b *bed) backend.Project {
	b.Helper()
	socket := filepath.Join(b.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	gitalypb.RegisterSmartHTTPServiceServer(server, l)
	gitalypb.RegisterCommitServiceServer(server, l)
	gitalypb.RegisterRefServiceServer(server, l)
	gitalypb.RegisterBlobServiceServer(server, l)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	b.Cleanup(func() {
		server.Stop()
		<-done
	})
	p := b.on("full", "main")
	p.Gitaly.Address = "unix:" + socket
	return p
}

func TestLiar_Head(t *testing.T) {
	for name, data := range map[string]string{
		"nothing": "", "truncated": start + pkt(oid1+" HEAD"), "version 2": start + pkt("version 2", "ls-refs") + flush,
		"error line": start + pkt("ERR go away") + flush, "rubbish": "<html>",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, nil)
			_, err := b.client.Head(t.Context(), (&liar{advertisement: data}).start(b))
			b.wantKind(err, fault.Unavailable, "group/full", "protocol error")
		})
	}
}

func TestLiar_PointLookups(t *testing.T) {
	b := newBed(t, nil)
	bad := []*gitalypb.ListRefsResponse_Reference{{Name: []byte("refs/heads/main/sub"), Target: oid2}, {Name: []byte("refs/heads/main"), Target: "x"}}
	for name, l := range map[string]*liar{
		"a ref":                  {refs: bad},
		"another ref's commit":   {refs: bad[:1], commit: &gitalypb.GitCommit{Id: oid1}},
		"a commit":               {commit: &gitalypb.GitCommit{Id: "main"}},
		"a default that is gone": {},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.start(b)
			o, err := b.client.operation(p)
			if err != nil {
				t.Fatal(err)
			}
			b.client.memory.setWide(o.key())
			_, listErr := b.client.Head(t.Context(), p)
			p.DefaultBranch = ""
			_, findErr := b.client.Head(t.Context(), p)
			switch name {
			case "a ref":
				b.wantKind(listErr, fault.Unavailable, "no object id")
			case "a commit":
				b.wantKind(findErr, fault.Unavailable, "no object id")
			case "another ref's commit":
				b.wantKind(listErr, fault.NotFound)
			default:
				b.wantKind(findErr, fault.NotFound)
			}
		})
	}
}

func TestLiar_File(t *testing.T) {
	blob := &gitalypb.TreeEntryResponse{Type: gitalypb.TreeEntryResponse_BLOB, Oid: oid1, Size: 4, Mode: 0o100644, Data: []byte("ab")}
	data := func(text string) *gitalypb.TreeEntryResponse { return &gitalypb.TreeEntryResponse{Data: []byte(text)} }
	for name, test := range map[string]struct {
		entry []*gitalypb.TreeEntryResponse
		kind  fault.Kind
		want  string
	}{
		"no message":      {nil, fault.Unavailable, "protocol error: no answer"},
		"too little":      {[]*gitalypb.TreeEntryResponse{blob}, fault.Unavailable, "another size"},
		"too much":        {[]*gitalypb.TreeEntryResponse{blob, data("cdefghijklm")}, fault.Unavailable, "another size"},
		"limit ignored":   {[]*gitalypb.TreeEntryResponse{{Type: 1, Oid: oid1, Size: 11, Mode: 0o100644}}, fault.FailedPrecondition, "11 bytes, at most 10"},
		"data of nothing": {[]*gitalypb.TreeEntryResponse{data("a")}, fault.NotFound, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, nil)
			p := (&liar{entry: test.entry, commit: &gitalypb.GitCommit{Id: oid2}}).start(b)
			_, err := b.client.File(t.Context(), p, oid2, "f", 10)
			b.wantKind(err, test.kind, test.want)
		})
	}
	b := newBed(t, nil)
	p := (&liar{entry: []*gitalypb.TreeEntryResponse{blob, data("cd"), {}}}).start(b)
	got, err := b.client.File(t.Context(), p, oid2, "f", 4)
	if err != nil || string(got) != "abcd" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestLiar_AgentConfigFiles(t *testing.T) {
	head := start + pkt(oid1+" HEAD", oid1+" refs/heads/main") + flush
	b := newBed(t, nil)
	_, err := b.client.AgentConfigFiles(t.Context(), (&liar{advertisement: head, entries: maxEntries + 1000}).start(b))
	b.wantKind(err, fault.FailedPrecondition, fmt.Sprint(maxEntries))
	_, err = b.client.AgentConfigFiles(t.Context(), (&liar{advertisement: head, entriesErr: status.Error(codes.InvalidArgument, "bad")}).start(b))
	b.wantKind(err, fault.InvalidArgument, "group/full", "bad")
	if b.logs.Len() != 1 {
		t.Errorf("logged %v", b.logs.All())
	}
	_, err = b.client.AgentConfigFiles(t.Context(), (&liar{advertisement: head, entries: 1000, entriesErr: status.Error(codes.NotFound, "x")}).start(b))
	b.wantKind(err, fault.Unavailable)
}

func TestLiar_Blobs(t *testing.T) {
	whole := func(change func(*gitalypb.GetBlobsResponse)) *gitalypb.GetBlobsResponse {
		m := &gitalypb.GetBlobsResponse{
			Path: []byte("a"), Revision: oid2, Oid: oid1, Size: 3, Mode: 0o100644, Type: gitalypb.ObjectType_BLOB, Data: []byte("abc"),
		}
		if change != nil {
			change(m)
		}
		return m
	}
	more := &gitalypb.GetBlobsResponse{Data: []byte("x")}
	for name, pieces := range map[string][]*gitalypb.GetBlobsResponse{
		"nothing":          nil,
		"data first":       {more},
		"too much":         {whole(nil), more},
		"too much at once": {whole(func(m *gitalypb.GetBlobsResponse) { m.Data = []byte("abcd") })},
		"too little":       {whole(func(m *gitalypb.GetBlobsResponse) { m.Data = []byte("ab") })},
		"cut by the next":  {whole(func(m *gitalypb.GetBlobsResponse) { m.Data = []byte("ab") }), whole(nil)},
		"another file":     {whole(func(m *gitalypb.GetBlobsResponse) { m.Path = []byte("b") })},
		"twice":            {whole(nil), whole(nil)},
		"another content":  {whole(func(m *gitalypb.GetBlobsResponse) { m.Oid = oid2 })},
		"no id":            {whole(func(m *gitalypb.GetBlobsResponse) { m.Oid = "x" })},
		"negative":         {whole(func(m *gitalypb.GetBlobsResponse) { m.Size = -1 })},
		"no type":          {whole(func(m *gitalypb.GetBlobsResponse) { m.Mode = 0 })},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, nil)
			got := 0
			err := b.client.Blobs(t.Context(), (&liar{blobs: pieces, commit: &gitalypb.GitCommit{Id: oid2}}).start(b), oid2,
				[]backend.Entry{{Path: "a", ID: oid1}}, 100, func(backend.Entry, []byte) error { got++; return nil })
			if name == "no type" {
				b.wantKind(err, fault.FailedPrecondition, "not a regular file")
				return
			}
			b.wantKind(err, fault.Unavailable, "protocol error")
			if got > 1 {
				t.Errorf("given %d times", got)
			}
		})
	}
}

func TestLiar_Listings(t *testing.T) {
	b := newBed(t, nil)
	_, err := b.list((&liar{entries: 1000}).start(b), oid2, "", false)
	b.wantKind(err, fault.Unavailable, "no object id")
	// An error after entries is no reason to begin again, and never the end of a list.
	for _, code := range []codes.Code{codes.Internal, codes.NotFound, codes.InvalidArgument} {
		_, err := b.list((&liar{entriesErr: status.Error(code, "died")}).start(b), oid2, "", false)
		b.wantKind(err, fault.Unavailable)
	}
}

// TestLiar_UnhealthyAfterAll: a call that is repeated without the primary gives nothing twice.
func TestLiar_UnhealthyAfterAll(t *testing.T) {
	b := newBed(t, nil)
	unhealthy := status.Error(codes.Internal, "primary gitaly is not healthy")
	l := &liar{entries: 1000, entryID: oid1, entriesErr: unhealthy, blobsErr: unhealthy, blobs: []*gitalypb.GetBlobsResponse{
		{Path: []byte("a"), Revision: oid2, Oid: oid1, Size: 3, Mode: 0o100644, Type: gitalypb.ObjectType_BLOB, Data: []byte("abc")},
	}}
	o, err := b.client.operation(l.start(b))
	if err != nil {
		t.Fatal(err)
	}
	o.primary = true
	seen, given := 0, 0
	err = (&listing{operation: o, commit: oid2, visit: func(backend.Entry) error { seen++; return nil }}).read(t.Context())
	b.wantKind(err, fault.Unavailable)
	err = (&bulk{operation: o, commit: oid2, limit: 100, each: func(backend.Entry, []byte) error { given++; return nil }}).read(t.Context(), []backend.Entry{{Path: "a"}})
	b.wantKind(err, fault.Unavailable)
	if seen != 1000 || given != 1 {
		t.Errorf("%d entries, %d files", seen, given)
	}
}
