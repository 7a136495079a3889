package line

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"gitlab.com/agentk/agentk/test/tool"
)

const modulePath = "gitlab.com/agentk/agentk"

// Binaries are the two daemons, as paths. The engine of GitOps has to be beside Agentk, as agentk-gitops.
type Binaries struct {
	Kas, Agentk string
}

var built struct {
	sync.Mutex
	done     bool
	binaries Binaries
}

// Build compiles the daemons of this checkout and returns where they are: as they are released, or with the race detector if the caller
// has it. It does so once per process; when nothing has changed since another process did, it takes a second or two.
func Build(ctx context.Context) (Binaries, error) {
	built.Lock()
	defer built.Unlock()
	if built.done {
		return built.binaries, nil
	}
	root, err := goCommand(ctx, nil, "list", "-m", "-f", "{{.Dir}}", modulePath)
	if err != nil {
		return Binaries{}, fmt.Errorf("find the checkout: %w", err)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return Binaries{}, fmt.Errorf("cache folder: %w", err)
	}
	// One folder per checkout and kind of build, so that go build finds its last result there and leaves it alone when it still fits.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s race=%t", root, raceBuild))
	dir := filepath.Join(user, "agentk", "daemons", hex.EncodeToString(sum[:8]))
	unlock, err := tool.Lock(ctx, dir+".lock")
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	env, flags := buildSettings(raceBuild)
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	args = append(args, modulePath+"/cmd/kas", modulePath+"/cmd/agentk", modulePath+"/cmd/agentk-gitops")
	if _, err := goCommand(ctx, env, args...); err != nil {
		return Binaries{}, fmt.Errorf("build the daemons: %w", err)
	}
	built.binaries = Binaries{Kas: filepath.Join(dir, "kas"), Agentk: filepath.Join(dir, "agentk")}
	built.done = true
	return built.binaries, nil
}

// buildSettings are environment and flags of go build. Without the race detector they are those of the images (deploy/images), static
// and stripped: what is measured is what runs elsewhere.
func buildSettings(race bool) (env, flags []string) {
	if race {
		return nil, []string{"-race"}
	}
	return []string{"CGO_ENABLED=0"}, []string{"-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", "-s -w"}
}

func goCommand(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("go %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
