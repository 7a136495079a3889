package gitaly

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// locate finds the directory of a repository.
func (s *Server) locate(r *gitaly.Repository) (string, error) {
	storage, relative := r.GetStorageName(), r.GetRelativePath()
	switch {
	case storage == "" && relative == "":
		return "", status.Error(codes.InvalidArgument, "repository not set")
	case relative == "":
		return "", status.Error(codes.InvalidArgument, "repository path not set")
	case storage == "":
		return "", status.Error(codes.InvalidArgument, "storage name not set")
	}
	root, configured := s.cfg.Storages[storage]
	if !configured {
		return "", s.unknownStorage()
	}
	if _, err := os.Stat(root); err != nil {
		if s.cfg.Personality < V16_2 {
			return "", status.Error(codes.Internal, "storage directory: "+errNoDirectory.Error())
		}
		return "", status.Error(codes.NotFound, "storage does not exist")
	}
	if !filepath.IsLocal(relative) {
		return "", status.Error(codes.InvalidArgument, "relative path escapes root directory")
	}
	dir := filepath.Join(root, relative)
	return dir, s.valid(dir, r)
}

func (s *Server) unknownStorage() error {
	switch {
	case s.cfg.Praefect && s.cfg.Personality < V16_2:
		return status.Error(codes.InvalidArgument, "repo scoped: no such virtual storage")
	case s.cfg.Personality < V16_2:
		return status.Error(codes.InvalidArgument, "no such storage")
	}
	return status.Error(codes.InvalidArgument, "storage name not found")
}

// valid says whether a directory is a repository.
func (s *Server) valid(dir string, r *gitaly.Repository) error {
	_, err := os.Stat(dir)
	missing := err != nil
	whole := !missing
	for _, part := range []string{"objects", "refs", "HEAD"} {
		if _, err := os.Stat(filepath.Join(dir, part)); err != nil {
			whole = false
		}
	}
	switch {
	case whole:
		return nil
	case missing && s.cfg.Praefect && s.cfg.Personality < V16_2:
		return status.Errorf(codes.NotFound, "repository %q/%q not found", r.GetStorageName(), r.GetRelativePath())
	case s.cfg.Personality < V16_2:
		return status.Error(codes.NotFound, "GetRepoPath: not a git repository")
	case missing:
		return status.Error(codes.NotFound, "repository not found")
	}
	return status.Error(codes.FailedPrecondition, "repository not valid")
}

// checkRevision refuses what could be an option, or several revisions, or a path.
func checkRevision(revision []byte) error {
	switch {
	case len(revision) == 0:
		return status.Error(codes.InvalidArgument, "empty revision")
	case revision[0] == '-':
		return status.Error(codes.InvalidArgument, "revision can't start with '-'")
	case bytes.ContainsAny(revision, " \t\r\n\x00:\\"):
		return status.Error(codes.InvalidArgument, "revision can't contain whitespace, NUL, ':' or '\\'")
	}
	return nil
}

// plainPath says whether a path names something below the root in the only spelling that git's trees know.
func plainPath(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.Contains(path, "\x00")
}
