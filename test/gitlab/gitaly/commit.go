package gitaly

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gitlab.com/agentk/agentk/api/gitaly"
)

// bodyLimit is how much of a commit message is sent.
const bodyLimit = 10240

var person = regexp.MustCompile(`^(.*?) ?<(.*)> (\d+) ([-+]\d{4})$`)

// FindCommit finds a commit.
func (s *Server) FindCommit(ctx context.Context, request *gitaly.FindCommitRequest) (*gitaly.FindCommitResponse, error) {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return nil, err
	}
	if err := checkRevision(request.GetRevision()); err != nil {
		return nil, err
	}
	commit, err := s.commit(ctx, dir, string(request.GetRevision()))
	if errors.Is(err, errMissing) {
		return &gitaly.FindCommitResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &gitaly.FindCommitResponse{Commit: commit}, nil
}

// commit reads a commit, errMissing if there is none.
func (s *Server) commit(ctx context.Context, dir, revision string) (*gitaly.GitCommit, error) {
	oid, err := s.resolve(ctx, dir, revision+"^{commit}")
	if err != nil {
		return nil, err
	}
	raw, err := s.run(ctx, dir, "cat-file", "commit", oid)
	if err != nil {
		return nil, err
	}
	header, body, _ := bytes.Cut(raw, []byte("\n\n"))
	subject, _, _ := bytes.Cut(body, []byte("\n"))
	commit := &gitaly.GitCommit{Id: oid, Subject: subject, Body: body[:min(len(body), bodyLimit)], BodySize: int64(len(body))}
	for line := range strings.SplitSeq(string(header), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "tree":
			if s.cfg.Personality >= V13_12 {
				commit.TreeId = value
			}
		case "parent":
			commit.ParentIds = append(commit.ParentIds, value)
		case "author":
			commit.Author = author(value)
		case "committer":
			commit.Committer = author(value)
		}
	}
	return commit, nil
}

func author(line string) *gitaly.CommitAuthor {
	parts := person.FindStringSubmatch(line)
	if parts == nil {
		return &gitaly.CommitAuthor{}
	}
	seconds, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		seconds = 0
	}
	return &gitaly.CommitAuthor{
		Name: []byte(parts[1]), Email: []byte(parts[2]), Date: timestamppb.New(time.Unix(seconds, 0)), Timezone: []byte(parts[4]),
	}
}
