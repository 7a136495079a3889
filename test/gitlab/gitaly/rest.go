package gitaly

import (
	"context"
	"errors"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// GetBlobs reads many files at once.
func (s *Server) GetBlobs(request *gitaly.GetBlobsRequest, stream gitaly.BlobService_GetBlobsServer) error {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return err
	}
	if len(request.GetRevisionPaths()) == 0 {
		return status.Error(codes.InvalidArgument, "empty RevisionPaths")
	}
	for _, rp := range request.GetRevisionPaths() {
		if err := checkRevision([]byte(rp.GetRevision())); err != nil {
			return err
		}
	}
	for _, rp := range request.GetRevisionPaths() {
		if err := s.sendItem(dir, rp, request.GetLimit(), stream); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) sendItem(dir string, rp *gitaly.GetBlobsRequest_RevisionPath, limit int64, stream gitaly.BlobService_GetBlobsServer) error {
	path := strings.TrimSuffix(string(rp.GetPath()), "/")
	first := &gitaly.GetBlobsResponse{Revision: rp.GetRevision(), Path: []byte(path)}
	found, err := s.find(stream.Context(), dir, rp.GetRevision(), path)
	if errors.Is(err, errMissing) {
		return stream.Send(first)
	}
	if err != nil {
		return err
	}
	first.Oid, first.Mode, first.Size = found.oid, found.mode, found.size
	switch found.kind {
	case "tree":
		first.Type = gitaly.ObjectType_TREE
		return stream.Send(first)
	case "commit":
		first.Type, first.IsSubmodule = gitaly.ObjectType_COMMIT, true
		return stream.Send(first)
	}
	first.Type = gitaly.ObjectType_BLOB
	content, err := s.object(stream.Context(), dir, "blob", found.oid)
	if err != nil {
		return err
	}
	if limit >= 0 {
		content = content[:min(limit, int64(len(content)))]
	}
	if len(content) == 0 {
		return stream.Send(first)
	}
	next := first
	return s.pieces(content, func(piece []byte) error {
		next.Data = piece
		err := stream.Send(next)
		next = &gitaly.GetBlobsResponse{}
		return err
	})
}

// ObjectFormat names the hash of a repository.
func (s *Server) ObjectFormat(ctx context.Context, request *gitaly.ObjectFormatRequest) (*gitaly.ObjectFormatResponse, error) {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return nil, err
	}
	out, err := s.run(ctx, dir, "rev-parse", "--show-object-format")
	if err != nil {
		return nil, s.internal(err)
	}
	format := gitaly.ObjectFormat_OBJECT_FORMAT_SHA1
	if strings.TrimSpace(string(out)) == "sha256" {
		format = gitaly.ObjectFormat_OBJECT_FORMAT_SHA256
	}
	return &gitaly.ObjectFormatResponse{Format: format}, nil
}

// WriteRef changes a ref. It makes what is known of the repository stale, even if it then fails.
func (s *Server) WriteRef(ctx context.Context, request *gitaly.WriteRefRequest) (*gitaly.WriteRefResponse, error) {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return nil, err
	}
	s.Invalidate(request.GetRepository().GetStorageName(), request.GetRepository().GetRelativePath())
	ref, revision := string(request.GetRef()), string(request.GetRevision())
	if err := checkRevision(request.GetRevision()); err != nil {
		return nil, err
	}
	if ref != "HEAD" && !strings.HasPrefix(ref, "refs/") {
		return nil, status.Error(codes.InvalidArgument, "ref is not a full reference")
	}
	args := []string{"update-ref", ref, revision}
	if old := string(request.GetOldRevision()); old != "" {
		args = append(args, old)
	}
	if ref == "HEAD" {
		args = []string{"symbolic-ref", "HEAD", revision}
	}
	if _, err := s.run(ctx, dir, args...); err != nil {
		return nil, s.internal(err)
	}
	return &gitaly.WriteRefResponse{}, nil
}

// ServerInfo tells the version and the storages.
func (s *Server) ServerInfo(ctx context.Context, _ *gitaly.ServerInfoRequest) (*gitaly.ServerInfoResponse, error) {
	out, err := s.run(ctx, os.DevNull, "version")
	if err != nil {
		return nil, s.internal(err)
	}
	response := &gitaly.ServerInfoResponse{
		ServerVersion: s.cfg.Personality.version(), GitVersion: strings.TrimSpace(strings.TrimPrefix(string(out), "git version ")),
	}
	for name, dir := range s.cfg.Storages {
		_, err := os.Stat(dir)
		response.StorageStatuses = append(response.StorageStatuses, &gitaly.ServerInfoResponse_StorageStatus{
			StorageName: name, Readable: err == nil, Writeable: err == nil, ReplicationFactor: 1,
		})
	}
	return response, nil
}
