package main

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
)

// compile builds a command of cmd for a platform, static and stripped. Without gRPC's own trace pages, which nobody turns on, the linker
// need not keep every exported method for their templates: agentk is a seventh smaller.
func (s settings) compile(ctx context.Context, command string, p platform, out string) error {
	variable := "gitlab.com/agentk/agentk/internal/version."
	flags := fmt.Sprintf("-s -w -X %sVersion=%s -X %sCommit=%s", variable, s.version, variable, s.commit)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", flags, "-o", out, "./cmd/"+command)
	cmd.Dir = s.source
	cmd.Env = append(os.Environ(), p.environment()...)
	if report, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", command, err, report)
	}
	return nil
}

// identify finds commit and time stamp: those of git, where there is git. SOURCE_DATE_EPOCH, in seconds, wins. A checkout with
// changes says so in its commit: nobody can build the same again.
func (s *settings) identify(ctx context.Context, getenv func(string) string) error {
	s.commit = "unknown"
	epoch := "0"
	commit, err := output(ctx, s.source, "git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*")
	if err == nil {
		s.commit = commit
		if epoch, err = output(ctx, s.source, "git", "log", "-1", "--format=%ct"); err != nil {
			return err
		}
	}
	epoch = or(getenv("SOURCE_DATE_EPOCH"), epoch)
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return fmt.Errorf("SOURCE_DATE_EPOCH %q: must be a number of seconds", epoch)
	}
	s.created = time.Unix(seconds, 0).UTC()
	if s.version == "" || strings.ContainsAny(s.version, " \t\n/:@'\"") {
		return fmt.Errorf("version %q cannot be the tag of an image", s.version)
	}
	return nil
}

// moduleVersion is the version of a module that go.mod selects.
func (s settings) moduleVersion(ctx context.Context, module string) (string, error) {
	return output(ctx, s.source, "go", "list", "-m", "-f", "{{.Version}}", module)
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	return strings.TrimSpace(string(out)), err
}
