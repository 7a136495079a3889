package gitaly

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/gitaly"
)

const (
	serviceLine = "001e# service=git-upload-pack\n0000"
	flush       = "0000"
	// capabilities are those of an advertisement without refs.
	capabilities = "multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not deepen-relative no-progress " +
		"include-tag multi_ack_detailed allow-tip-sha1-in-want allow-reachable-sha1-in-want no-done filter"
)

// cache holds advertisements until something writes to their repository. Server.mu guards it.
type cache struct {
	on bool
	// answers by repository, then by request and flags.
	answers map[string]map[string][]byte
}

// SetCache switches the cache of advertisements, which is on at the start.
func (s *Server) SetCache(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.on = on
	s.cache.answers = map[string]map[string][]byte{}
}

// Invalidate forgets the advertisements of a repository, as every write through Gitaly does.
func (s *Server) Invalidate(storage, relativePath string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cache.answers, storage+"\x00"+relativePath)
}

// cacheKey names an advertisement; empty: it is not kept.
func (s *Server) cacheKey(md metadata.MD, request *gitaly.InfoRefsRequest) (string, error) {
	if request.GetGitProtocol() != "" || len(request.GetGitConfigOptions()) > 0 {
		return "", nil
	}
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return "", s.internal(err)
	}
	var flags []string
	for key, values := range md {
		if strings.HasPrefix(key, "gitaly-feature-") {
			flags = append(flags, key+"="+values[0])
		}
	}
	slices.Sort(flags)
	return string(content) + "\x00" + strings.Join(flags, "\x00"), nil
}

// InfoRefsUploadPack advertises the refs of a repository.
func (s *Server) InfoRefsUploadPack(request *gitaly.InfoRefsRequest, stream gitaly.SmartHTTPService_InfoRefsUploadPackServer) error {
	dir, err := s.locate(request.GetRepository())
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	key, err := s.cacheKey(md, request)
	if err != nil {
		return err
	}
	repository := request.GetRepository().GetStorageName() + "\x00" + request.GetRepository().GetRelativePath()
	s.mu.Lock()
	on, answer := s.cache.on && key != "", s.cache.answers[repository][key]
	if on && answer == nil && s.cache.answers[repository] == nil {
		s.cache.answers[repository] = map[string][]byte{}
	}
	generation := s.cache.answers[repository]
	s.mu.Unlock()
	send := func(piece []byte) error { return stream.Send(&gitaly.InfoRefsResponse{Data: piece}) }
	if err := send([]byte(serviceLine)); err != nil {
		return err
	}
	if !on || answer == nil {
		if answer, err = s.advertise(stream, dir, request); err != nil {
			return err
		}
	}
	if err := s.pieces(answer, send); err != nil {
		return err
	}
	if on {
		// Kept only now that the client read all of it. A write in between replaced the generation, which nobody reads any more.
		s.mu.Lock()
		defer s.mu.Unlock()
		if generation != nil {
			generation[key] = answer
		}
	}
	return nil
}

func (s *Server) advertise(stream gitaly.SmartHTTPService_InfoRefsUploadPackServer, dir string, request *gitaly.InfoRefsRequest) ([]byte, error) {
	args := []string{"-c", "uploadpack.allowFilter=true", "-c", "uploadpack.allowAnySHA1InWant=true"}
	if s.cfg.Personality >= V16_2 {
		for _, hidden := range []string{"refs/keep-around/", "refs/remotes/", "refs/tmp/"} {
			args = append(args, "-c", "uploadpack.hideRefs="+hidden)
		}
	}
	for _, option := range request.GetGitConfigOptions() {
		if key, _, pair := strings.Cut(option, "="); !pair || !strings.Contains(key, ".") {
			return nil, status.Errorf(codes.Internal, "invalid git configuration option %q", option)
		}
		args = append(args, "-c", option)
	}
	cmd := s.command(stream.Context(), dir, append(args, "upload-pack", "--stateless-rpc", "--advertise-refs", dir)...)
	if v := request.GetGitProtocol(); v == "version=1" || v == "version=2" {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+v)
	}
	out, err := cmd.Output()
	if stream.Context().Err() != nil {
		return nil, status.FromContextError(stream.Context().Err()).Err()
	}
	if err != nil {
		return nil, s.internal(fmt.Errorf("git upload-pack: %w", err))
	}
	if request.GetGitProtocol() != "" {
		return out, nil
	}
	return s.emptyForm(stream, dir, out)
}

// emptyForm gives the advertisement of an empty repository the form of the release's git, whatever git is installed here.
func (s *Server) emptyForm(stream gitaly.SmartHTTPService_InfoRefsUploadPackServer, dir string, out []byte) ([]byte, error) {
	bare := string(out) == flush
	pseudo := bytes.Contains(out, []byte(" capabilities^{}\x00"))
	switch {
	case s.cfg.Personality >= V16_2 && bare:
		format, err := s.run(stream.Context(), dir, "rev-parse", "--show-object-format")
		if err != nil {
			return nil, s.internal(err)
		}
		name := strings.TrimSpace(string(format))
		zeros := strings.Repeat("0", 40)
		if name == "sha256" {
			zeros = strings.Repeat("0", 64)
		}
		payload := zeros + " capabilities^{}\x00 " + capabilities + " object-format=" + name + " agent=git/2.41.0\n"
		return fmt.Appendf(nil, "%04x%s%s", len(payload)+4, payload, flush), nil
	case s.cfg.Personality < V16_2 && pseudo:
		return []byte(flush), nil
	}
	return out, nil
}

// maxPiece is the most data in a message.
const maxPiece = 128 << 10

// defaultChunks are the sizes of data pieces, in turn: mixed as they are in practice.
var defaultChunks = []int{32 << 10, 4, 4 << 10}

// SetChunks sets the sizes of data pieces, which are taken in turn.
func (s *Server) SetChunks(sizes ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chunks = slices.Clone(sizes)
}

// pieces gives data away in pieces.
func (s *Server) pieces(data []byte, send func([]byte) error) error {
	s.mu.Lock()
	sizes := s.chunks
	s.mu.Unlock()
	rest := bytes.NewBuffer(data)
	for i := 0; ; i++ {
		size := maxPiece
		if len(sizes) > 0 {
			size = min(max(sizes[i%len(sizes)], 1), maxPiece)
		}
		piece := rest.Next(size)
		if len(piece) == 0 {
			return nil
		}
		if err := send(piece); err != nil {
			return err
		}
	}
}
