package gitaly

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/gitaly"
)

const (
	// messageSize is how many bytes of entries go into one message.
	messageSize = 1 << 20
	// flatSteps is how far a chain of lone directories is followed.
	flatSteps = 9
)

// GetTreeEntries lists a directory of a commit.
func (s *Server) GetTreeEntries(request *gitaly.GetTreeEntriesRequest, stream gitaly.CommitService_GetTreeEntriesServer) error {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return err
	}
	if err := checkRevision(request.GetRevision()); err != nil {
		return err
	}
	if len(request.GetPath()) == 0 {
		return s.emptyPath()
	}
	ctx := stream.Context()
	root, err := s.listedTree(ctx, dir, request)
	if err != nil || root == "" {
		return err
	}
	items, err := s.list(ctx, dir, root, request.GetRecursive())
	if err != nil {
		return s.internal(err)
	}
	entries, err := s.entries(ctx, dir, request, root, items)
	if err != nil {
		return err
	}
	if request.GetSort() == gitaly.GetTreeEntriesRequest_TREES_FIRST && s.cfg.Personality >= V16_2 {
		slices.SortStableFunc(entries, func(a, b *gitaly.TreeEntry) int { return rank(a) - rank(b) })
	}
	var cursor *gitaly.PaginationCursor
	if s.cfg.Personality >= V16_2 {
		if entries, cursor, err = s.page(entries, root, request.GetPaginationParams()); err != nil {
			return err
		}
	}
	return sendEntries(stream, entries, cursor)
}

// listedTree is the tree that a request names. Where the release says "no such directory" by saying nothing, it is empty.
func (s *Server) listedTree(ctx context.Context, dir string, request *gitaly.GetTreeEntriesRequest) (string, error) {
	revision, path := string(request.GetRevision()), string(request.GetPath())
	if path == "." {
		tree, err := s.resolve(ctx, dir, revision+"^{commit}^{tree}")
		if errors.Is(err, errMissing) {
			return "", s.noTree(ctx, request, "")
		}
		return tree, err
	}
	found, err := s.find(ctx, dir, revision, path)
	switch {
	case errors.Is(err, errMissing):
		return "", s.noTree(ctx, request, "")
	case err != nil:
		return "", err
	case found.kind != "tree":
		return "", s.noTree(ctx, request, found.kind)
	}
	return found.oid, nil
}

// noTree says in the release's way that there is no such directory, but a file or a submodule, or nothing.
func (s *Server) noTree(ctx context.Context, request *gitaly.GetTreeEntriesRequest, kind string) error {
	p, recursive := s.cfg.Personality, request.GetRecursive()
	md, _ := metadata.FromIncomingContext(ctx)
	unified := p == V16_11 && strings.Join(md.Get("gitaly-feature-use-unified-get-tree-entries"), "") == "true"
	code := codes.InvalidArgument
	switch {
	case p <= V16_2:
		return nil
	case unified:
	case kind == "blob" && p < V18, kind == "commit" && p == V16_5:
		return nil
	case kind == "commit" && p == V16_11:
		if recursive {
			return status.Error(codes.Internal, "submodule is no tree")
		}
		return nil
	case kind == "commit", kind == "" && p >= V16_11 && recursive:
		code = codes.NotFound
	}
	return withDetail(code, "invalid revision or path", &gitaly.GetTreeEntriesError{
		Error: &gitaly.GetTreeEntriesError_ResolveTree{ResolveTree: &gitaly.ResolveRevisionError{Revision: request.GetRevision()}},
	})
}

func (s *Server) emptyPath() error {
	if s.cfg.Personality <= V16_2 {
		return status.Error(codes.InvalidArgument, "empty Path")
	}
	return withDetail(codes.InvalidArgument, "empty path", &gitaly.GetTreeEntriesError{
		Error: &gitaly.GetTreeEntriesError_Path{Path: &gitaly.PathError{ErrorType: gitaly.PathError_ERROR_TYPE_EMPTY_PATH}},
	})
}

func withDetail(code codes.Code, message string, detail proto.Message) error {
	f := Fault{Code: code, Message: message, Details: []proto.Message{detail}}
	return f.err()
}

func (s *Server) entries(ctx context.Context, dir string, request *gitaly.GetTreeEntriesRequest, root string, items []item) ([]*gitaly.TreeEntry, error) {
	prefix := strings.TrimSuffix(string(request.GetPath()), "/") + "/"
	if string(request.GetPath()) == "." {
		prefix = ""
	}
	flat := !request.GetRecursive() && (!request.GetSkipFlatPaths() || s.cfg.Personality < V16_2)
	entries := make([]*gitaly.TreeEntry, 0, len(items))
	for _, i := range items {
		if i.oid == root {
			continue // one of Gitaly's own peculiarities
		}
		e := &gitaly.TreeEntry{
			Oid: i.oid, Path: []byte(prefix + i.path), Mode: i.mode, CommitOid: string(request.GetRevision()), Type: gitaly.TreeEntry_BLOB,
		}
		switch i.kind {
		case "tree":
			e.Type = gitaly.TreeEntry_TREE
		case "commit":
			e.Type = gitaly.TreeEntry_COMMIT
		}
		if flat {
			var err error
			if e.FlatPath, err = s.flatPath(ctx, dir, e); err != nil {
				return nil, err
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// flatPath follows directories that hold nothing but one directory.
func (s *Server) flatPath(ctx context.Context, dir string, e *gitaly.TreeEntry) ([]byte, error) {
	path, oid := string(e.GetPath()), e.GetOid()
	if e.GetType() != gitaly.TreeEntry_TREE {
		return []byte(path), nil
	}
	for range flatSteps {
		items, err := s.list(ctx, dir, oid, false)
		if err != nil {
			return nil, s.internal(err)
		}
		if len(items) != 1 || items[0].kind != "tree" {
			break
		}
		path, oid = path+"/"+items[0].path, items[0].oid
	}
	return []byte(path), nil
}

func rank(e *gitaly.TreeEntry) int {
	switch e.GetType() {
	case gitaly.TreeEntry_TREE:
		return 0
	case gitaly.TreeEntry_BLOB:
		return 1
	}
	return 2
}

// pageToken is what the cursor stands for.
type pageToken struct {
	Path string `json:"file_name"`
	// Tree pins the listed tree, in the newest releases.
	Tree string `json:"tree_oid,omitempty"`
}

// page cuts a page out of a listing.
func (s *Server) page(entries []*gitaly.TreeEntry, root string, params *gitaly.PaginationParameter) ([]*gitaly.TreeEntry, *gitaly.PaginationCursor, error) {
	cursor := &gitaly.PaginationCursor{}
	if params == nil {
		return entries, cursor, nil
	}
	if token := params.GetPageToken(); token != "" {
		after, err := readPageToken(token)
		at := slices.IndexFunc(entries, func(e *gitaly.TreeEntry) bool { return string(e.GetPath()) == after.Path })
		if err != nil || at < 0 || s.cfg.Personality >= V18 && after.Tree != root {
			return nil, nil, status.Error(codes.Internal, "could not find starting OID: "+token)
		}
		entries = entries[at+1:]
	}
	limit := int(params.GetLimit())
	if limit < 0 || limit >= len(entries) {
		return entries, cursor, nil
	}
	if limit == 0 {
		return nil, cursor, nil
	}
	next := pageToken{Path: string(entries[limit-1].GetPath())}
	if s.cfg.Personality >= V18 {
		next.Tree = root
	}
	content, err := json.Marshal(next)
	if err != nil {
		return nil, nil, s.internal(err)
	}
	cursor.NextCursor = base64.StdEncoding.EncodeToString(content)
	return entries[:limit], cursor, nil
}

func readPageToken(token string) (pageToken, error) {
	content, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return pageToken{}, err
	}
	var t pageToken
	err = json.Unmarshal(content, &t)
	return t, err
}

// sendEntries packs entries into messages. Nothing to send is no message at all.
func sendEntries(stream gitaly.CommitService_GetTreeEntriesServer, entries []*gitaly.TreeEntry, cursor *gitaly.PaginationCursor) error {
	message := &gitaly.GetTreeEntriesResponse{PaginationCursor: cursor}
	size := 0
	for _, e := range entries {
		message.Entries = append(message.Entries, e)
		if size += proto.Size(e); size < messageSize {
			continue
		}
		if err := stream.Send(message); err != nil {
			return err
		}
		message, size = &gitaly.GetTreeEntriesResponse{}, 0
	}
	if len(message.GetEntries()) == 0 {
		return nil
	}
	return stream.Send(message)
}
