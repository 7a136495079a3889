package gitaly

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// refsPerMessage is how many refs go into one message.
const refsPerMessage = 20

const branches = "refs/heads/"

// FindDefaultBranchName names the branch that people get by default.
func (s *Server) FindDefaultBranchName(ctx context.Context, request *gitaly.FindDefaultBranchNameRequest) (*gitaly.FindDefaultBranchNameResponse, error) {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return nil, err
	}
	out, err := s.run(ctx, dir, "symbolic-ref", "--quiet", "HEAD")
	if err != nil {
		return nil, status.Error(s.cfg.Personality.failed(), "HEAD is not symbolic")
	}
	head := strings.TrimSpace(string(out))
	if request.GetHeadOnly() && s.cfg.Personality >= V16_2 {
		return &gitaly.FindDefaultBranchNameResponse{Name: []byte(head)}, nil
	}
	refs, err := s.refs(ctx, dir, false, branches)
	if err != nil {
		return nil, err
	}
	name := s.defaultOf(head, refs)
	return &gitaly.FindDefaultBranchNameResponse{Name: []byte(name)}, nil
}

func (s *Server) defaultOf(head string, refs []*gitaly.ListRefsResponse_Reference) string {
	if len(refs) == 0 {
		return ""
	}
	wanted := []string{head, branches + "main", branches + "master"}
	if s.cfg.Personality == V13_0 {
		if len(refs) == 1 {
			return string(refs[0].GetName())
		}
		wanted = []string{head, branches + "master"}
	}
	for _, name := range wanted {
		for _, ref := range refs {
			if string(ref.GetName()) == name {
				return name
			}
		}
	}
	return string(refs[0].GetName())
}

// refs are those that match a pattern, or all, in order of their names.
func (s *Server) refs(ctx context.Context, dir string, peel bool, patterns ...string) ([]*gitaly.ListRefsResponse_Reference, error) {
	args := []string{"for-each-ref", "--format=%(refname) %(objectname) %(*objectname)"}
	out, err := s.run(ctx, dir, append(args, patterns...)...)
	if err != nil {
		return nil, s.internal(err)
	}
	var refs []*gitaly.ListRefsResponse_Reference
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		ref := &gitaly.ListRefsResponse_Reference{Name: []byte(fields[0]), Target: fields[1]}
		if peel && len(fields) == 3 {
			ref.PeeledTarget = fields[2]
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// ListRefs lists refs by patterns.
func (s *Server) ListRefs(request *gitaly.ListRefsRequest, stream gitaly.RefService_ListRefsServer) error {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return err
	}
	if len(request.GetPatterns()) == 0 {
		return status.Error(codes.InvalidArgument, "patterns must have at least one entry")
	}
	var patterns []string
	for _, p := range request.GetPatterns() {
		if strings.HasPrefix(string(p), "-") {
			return status.Error(codes.InvalidArgument, "a pattern can't start with '-'")
		}
		patterns = append(patterns, string(p))
	}
	refs, err := s.refs(stream.Context(), dir, request.GetPeelTags(), patterns...)
	if err != nil {
		return err
	}
	if request.GetHead() && len(refs) > 0 {
		head, err := s.resolve(stream.Context(), dir, "HEAD")
		if err != nil && !errors.Is(err, errMissing) {
			return err
		}
		if err == nil {
			refs = append([]*gitaly.ListRefsResponse_Reference{{Name: []byte("HEAD"), Target: head}}, refs...)
		}
	}
	for len(refs) > 0 {
		n := min(len(refs), refsPerMessage)
		if err := stream.Send(&gitaly.ListRefsResponse{References: refs[:n]}); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

// FindBranch finds a branch by its short name.
func (s *Server) FindBranch(ctx context.Context, request *gitaly.FindBranchRequest) (*gitaly.FindBranchResponse, error) {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return nil, err
	}
	name := string(request.GetName())
	if name == "" {
		return nil, status.Error(codes.InvalidArgument, "Branch name cannot be empty")
	}
	if s.cfg.Personality == V13_0 {
		name = strings.TrimPrefix(name, branches)
	}
	refs, err := s.refs(ctx, dir, false, branches+name)
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return &gitaly.FindBranchResponse{}, nil
	}
	if string(refs[0].GetName()) != branches+name {
		return nil, status.Error(codes.InvalidArgument, "branch name is ambiguous")
	}
	commit, err := s.commit(ctx, dir, branches+name)
	if err != nil {
		return nil, s.internal(err)
	}
	return &gitaly.FindBranchResponse{Branch: &gitaly.Branch{Name: []byte(name), TargetCommit: commit}}, nil
}
