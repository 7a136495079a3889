// Command demogitlab shows the line beside a GitLab: people push with git, GitLab tells kas, agents and jobs are those of GitLab, and a
// runner executes the jobs of a .gitlab-ci.yml with the kubeconfig that GitLab injects. GitLab is the double of the tests; git, kas,
// agentk, kubectl and the Kubernetes API server are real. It tells each step in a line, ends with a summary and an exit code, and cleans
// up. With KEEP=1 everything stays up until Ctrl-C.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"gitlab.com/agentk/agentk/test/narrator"
)

// interrupted is the exit code after Ctrl-C, as shells have it.
const interrupted = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Stdout, os.Getenv("KEEP") != "")
	stop()
	os.Exit(code)
}

// run tells the story and returns the exit code of the process.
func run(ctx context.Context, out io.Writer, keep bool) int {
	s := &story{narrator: narrator.New(out)}
	defer s.cleanUp()
	err := s.tell(ctx)
	s.narrator.Summary(err)
	if err != nil && ctx.Err() == nil {
		s.showLogs()
	}
	if keep && s.line != nil && ctx.Err() == nil {
		s.showExports()
		<-ctx.Done()
		s.narrator.Printf("\n")
		ctx = context.WithoutCancel(ctx) // Ctrl-C is how this is meant to end
	}
	switch {
	case ctx.Err() != nil:
		return interrupted
	case err != nil:
		return 1
	}
	return 0
}
