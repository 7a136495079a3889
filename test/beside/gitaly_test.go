package beside

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

const (
	pollFailed = "Configuration poll failed, retrying"

	oldest, newest = "13.0", "18.3"
)

// trouble is something that happens to Gitaly, until the returned function is called.
type trouble struct {
	name  string
	begin func(b *bed) (end func())
	// file: what fails is the file of a new commit, not the look at the branch.
	file bool
}

// broken is a Gitaly that answers with an error.
func broken(name string, fault func(*gitaly.Server) gitaly.Fault) trouble {
	return trouble{name: name, begin: func(b *bed) func() {
		f := fault(b.gl.Gitaly)
		b.gl.Gitaly.Break(f)
		return b.gl.Gitaly.Mend
	}}
}

// failing is a Gitaly that answers with a code.
func failing(code codes.Code) trouble {
	return broken(code.String(), func(*gitaly.Server) gitaly.Fault { return gitaly.Fault{Code: code, Message: "something is wrong"} })
}

// moved is a repository of which a part is elsewhere.
func moved(name, part string) trouble {
	return trouble{name: name, begin: func(b *bed) func() {
		dir, err := b.gl.RepositoryDir(infra)
		b.must(err)
		there := filepath.Join(dir, part)
		b.must(os.Rename(there, dir+".away"))
		return func() { b.must(os.Rename(dir+".away", there)) }
	}}
}

var gitalyTroubles = []trouble{
	broken("busy", func(s *gitaly.Server) gitaly.Fault { return s.Busy("", time.Second) }),
	broken("busy without a hint", func(s *gitaly.Server) gitaly.Fault { return s.Busy("", 0) }),
	failing(codes.Internal), failing(codes.Unknown), failing(codes.Unavailable), failing(codes.Unauthenticated), failing(codes.PermissionDenied),
	failing(codes.InvalidArgument), failing(codes.NotFound), failing(codes.FailedPrecondition), failing(codes.DeadlineExceeded),
	failing(codes.Canceled), failing(codes.Unimplemented),
	broken("breaks off", func(*gitaly.Server) gitaly.Fault { return gitaly.Fault{Code: codes.Internal, Message: "cut", After: 1} }),
	moved("no repository", ""), moved("half a repository", "objects"),
	{name: "file", file: true, begin: breakFile(gitaly.Fault{Code: codes.Internal, Message: "cannot read"})},
	{name: "file of a broken repository", file: true, begin: breakFile(gitaly.Fault{Code: codes.FailedPrecondition, Message: "repository not valid"})},
	{name: "file of a missing repository", file: true, begin: breakFile(gitaly.Fault{Code: codes.NotFound, Message: "repository not found"})},
}

// breakFile fails the reading of files.
func breakFile(fault gitaly.Fault) func(*bed) func() {
	fault.Method = "TreeEntry"
	return func(b *bed) func() {
		b.gl.Gitaly.Break(fault)
		return b.gl.Gitaly.Mend
	}
}

// The agent keeps its configuration in each kind of trouble, serves meanwhile, and hears of the next commit afterwards.
func TestGitaly_TroubleLeavesTheConfiguration(t *testing.T) {
	t.Parallel()
	for _, version := range []string{oldest, "13.12", "16.2", "16.5", "16.11", newest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := start(t, "gitaly-"+strings.ReplaceAll(version, ".", "-"), options{gitlab: gitlab.Config{Version: version, GitalyToken: "gitaly-secret"}})
			for _, tt := range gitalyTroubles {
				t.Run(tt.name, func(t *testing.T) { b.suffer(t, tt) })
			}
			if version == oldest || version == newest { // no release is slow in a way of its own
				t.Run("slow", b.slowGitaly)
				t.Run("unreachable", b.unreachableGitaly)
			}
		})
	}
}

// suffer lets kas meet trouble once, and then hears of the next commit at once.
func (b *bed) suffer(t *testing.T, tt trouble) {
	b.meet(t, tt)
	mended := time.Now()
	b.awaitApplied(b.push())
	if took := time.Since(mended); took > prompt {
		t.Errorf("live %s after the end of the trouble", took)
	}
}

// meet lets kas meet trouble once.
func (b *bed) meet(t *testing.T, tt trouble) {
	had, failed := b.configuration(), strings.Count(b.kasLog(), pollFailed)
	end := tt.begin(b)
	defer end()
	if tt.file {
		b.push()
	} else {
		b.notify()
	}
	b.eventually("kas meets the trouble", func() error {
		if strings.Count(b.kasLog(), pollFailed) == failed {
			return fmt.Errorf("no new %q in the log", pollFailed)
		}
		return nil
	})
	if err := b.answers(b.asJob()); err != nil {
		t.Errorf("meanwhile: %v", err)
	}
	b.keeps(had)
}

// slowGitaly: what is slow arrives late, and delays nothing else.
func (b *bed) slowGitaly(t *testing.T) {
	had := b.configuration()
	b.gl.Gitaly.Break(gitaly.Fault{Delay: time.Second})
	commit, pushed := b.push(), time.Now()
	if err := b.answers(b.asJob()); err != nil || time.Since(pushed) > prompt {
		t.Errorf("meanwhile: %v after %s", err, time.Since(pushed))
	}
	if time.Since(pushed) < time.Second {
		b.keeps(had)
	}
	b.awaitApplied(commit)
	b.gl.Gitaly.Mend()
}

// unreachableGitaly stops Gitaly and brings back another one at the same place. It comes last: the double's own is gone then.
func (b *bed) unreachableGitaly(t *testing.T) {
	b.meet(t, trouble{begin: func(*bed) func() {
		b.gl.Gitaly.Stop()
		return func() {
			again, err := gitaly.Start(gitaly.Config{
				Storages: map[string]string{"default": filepath.Join(b.gl.Dir, "repositories")}, Token: "gitaly-secret",
				Socket: filepath.Join(b.gl.Dir, "gitaly.sock"), Home: filepath.Join(b.gl.Dir, "home"),
			})
			b.must(err)
			again.SetCache(false) // the double does not know it, and so does not tell it of pushes
			b.Cleanup(again.Stop)
		}
	}})
	// A connection that was refused is not tried again at once, so the first look may still fail.
	commit, next := b.push(), time.Now().Add(time.Second)
	b.eventually("the configuration at the agent", func() error {
		if strings.Contains(b.agentLog(), commit) {
			return nil
		}
		if time.Now().After(next) {
			next = time.Now().Add(time.Second)
			b.notify()
		}
		return fmt.Errorf("no commit %s", commit)
	})
}
