package gitaly

import (
	"context"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

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
