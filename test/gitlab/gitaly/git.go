package gitaly

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"
)

// killDelay is how long a killed git may keep its pipes open.
const killDelay = 2 * time.Second

// errMissing says that a revision or path does not resolve.
var errMissing = errors.New("not found in the repository")

// command is git in a repository, with nobody's configuration. config are further options of git itself.
func (s *Server) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.program, append([]string{"-c", "safe.directory=*", "--git-dir", dir}, args...)...)
	cmd.Env = []string{
		"HOME=" + s.cfg.Home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0",
	}
	cmd.WaitDelay = killDelay
	return cmd
}

// run runs git and returns what it prints. Exit codes 1 and 128, by which git says that something is not there, are errMissing.
func (s *Server) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := s.command(ctx, dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == 1 || exit.ExitCode() == 128) {
		return nil, fmt.Errorf("%w: %s", errMissing, strings.TrimSpace(stderr.String()))
	}
	return nil, s.internal(fmt.Errorf("git %s: %w", args[0], err))
}

// internal is an error that nobody classified.
func (s *Server) internal(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(s.cfg.Personality.failed(), err.Error())
}

// resolve is the object that an expression means, errMissing if none.
func (s *Server) resolve(ctx context.Context, dir, expression string) (string, error) {
	out, err := s.run(ctx, dir, "rev-parse", "--verify", "--quiet", "--end-of-options", expression)
	return strings.TrimSpace(string(out)), err
}

// item is one entry of a tree.
type item struct {
	mode int32
	kind string // blob, tree or commit
	oid  string
	size int64 // of blobs, if it was asked for
	path string
}

// list lists a tree. Its sub-trees come with it if recursive, each before its content.
func (s *Server) list(ctx context.Context, dir, tree string, recursive bool) ([]item, error) {
	args := []string{"ls-tree", "-z", "--long", "--full-tree"}
	if recursive {
		args = append(args, "-r", "-t")
	}
	out, err := s.run(ctx, dir, append(args, tree)...)
	if err != nil {
		return nil, err
	}
	var items []item
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if line == "" {
			continue
		}
		meta, path, _ := strings.Cut(line, "\t")
		fields := strings.Fields(meta)
		if len(fields) != 4 {
			return nil, s.internal(fmt.Errorf("git ls-tree printed %q", line))
		}
		mode, err := strconv.ParseInt(fields[0], 8, 32)
		if err != nil {
			return nil, s.internal(err)
		}
		size, _ := strconv.ParseInt(fields[3], 10, 64) // "-" for what is no blob
		items = append(items, item{mode: int32(mode), kind: fields[1], oid: fields[2], size: size, path: path})
	}
	return items, nil
}

// find finds the entry at a path of a revision, errMissing if there is none.
func (s *Server) find(ctx context.Context, dir, revision, path string) (item, error) {
	path = strings.TrimSuffix(path, "/")
	if !plainPath(path) {
		return item{}, errMissing
	}
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	items, err := s.list(ctx, dir, revision+":"+parent, false)
	if err != nil {
		return item{}, err
	}
	for _, found := range items {
		if found.path == name {
			found.path = path
			return found, nil
		}
	}
	return item{}, errMissing
}

// object is an object's content.
func (s *Server) object(ctx context.Context, dir, kind, oid string) ([]byte, error) {
	out, err := s.run(ctx, dir, "cat-file", kind, oid)
	if err != nil {
		return nil, s.internal(err)
	}
	return out, nil
}
