package gitaly

import (
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// TreeEntry reads one entry of a commit.
func (s *Server) TreeEntry(request *gitaly.TreeEntryRequest, stream gitaly.CommitService_TreeEntryServer) error {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return err
	}
	if err := checkRevision(request.GetRevision()); err != nil {
		return err
	}
	maxSize := request.GetMaxSize()
	if s.cfg.Personality < V13_12 {
		maxSize = 0
	}
	switch {
	case len(request.GetPath()) == 0:
		return status.Error(codes.InvalidArgument, "empty Path")
	case request.GetLimit() < 0:
		return status.Error(codes.InvalidArgument, "negative Limit")
	case maxSize < 0:
		return status.Error(codes.InvalidArgument, "negative MaxSize")
	}
	ctx := stream.Context()
	found, err := s.find(ctx, dir, string(request.GetRevision()), string(request.GetPath()))
	if errors.Is(err, errMissing) {
		return s.noEntry(stream, string(request.GetPath()))
	}
	if err != nil {
		return err
	}
	response := &gitaly.TreeEntryResponse{Oid: found.oid, Mode: found.mode}
	switch found.kind {
	case "commit":
		response.Type = gitaly.TreeEntryResponse_COMMIT
		return stream.Send(response)
	case "tree":
		content, err := s.object(ctx, dir, "tree", found.oid)
		if err != nil {
			return err
		}
		response.Type, response.Size = gitaly.TreeEntryResponse_TREE, int64(len(content))
		return stream.Send(response)
	}
	if maxSize > 0 && found.size > maxSize {
		return status.Errorf(codes.FailedPrecondition, "object size (%d) is bigger than the maximum allowed size (%d)", found.size, maxSize)
	}
	content, err := s.object(ctx, dir, "blob", found.oid)
	if err != nil {
		return err
	}
	if limit := request.GetLimit(); limit > 0 && limit < int64(len(content)) {
		content = content[:limit]
	}
	response.Type, response.Size = gitaly.TreeEntryResponse_BLOB, found.size
	return sendBlob(s, stream, response, content)
}

// sendBlob sends the first message and the rest of the data.
func sendBlob(s *Server, stream gitaly.CommitService_TreeEntryServer, first *gitaly.TreeEntryResponse, content []byte) error {
	if len(content) == 0 {
		return stream.Send(first)
	}
	next := first
	return s.pieces(content, func(piece []byte) error {
		next.Data = piece
		err := stream.Send(next)
		next = &gitaly.TreeEntryResponse{}
		return err
	})
}

// noEntry says in the release's way that nothing is there.
func (s *Server) noEntry(stream gitaly.CommitService_TreeEntryServer, path string) error {
	if s.cfg.Personality >= V16_2 {
		return status.Error(codes.NotFound, "tree entry not found")
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	flag := strings.Join(md.Get("gitaly-feature-grpc-tree-entry-not-found"), "")
	if s.cfg.Personality >= V13_12 && flag == "true" {
		return status.Error(codes.NotFound, "not found: "+path)
	}
	return stream.Send(&gitaly.TreeEntryResponse{})
}
