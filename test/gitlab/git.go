package gitlab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/tool"
)

// killDelay is how long a killed program may keep its pipes open.
const killDelay = 2 * time.Second

// git is the program, with nobody's configuration.
type git struct {
	program string
	home    string
}

func newGit(ctx context.Context, home string) (*git, error) {
	program, err := tool.Install(ctx, "git", "git")
	if err != nil {
		return nil, err
	}
	return &git{program: program, home: home}, nil
}

func (g *git) environment() []string {
	return []string{
		"HOME=" + g.home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0",
	}
}

// run runs git in a directory and returns what it prints.
func (g *git) run(ctx context.Context, dir string, input io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, g.program, append([]string{"-c", "safe.directory=*"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.WaitDelay = dir, g.environment(), input, killDelay
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}
