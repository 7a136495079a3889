// Package tool gets hold of the real programs that tests run against: nginx, squid, redis-server, containerd. A test never skips
// because a program is missing: as root on Debian the package is installed on the spot, elsewhere the test fails with the command to run.
package tool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// aptLock orders the installations of test binaries that run side by side; apt itself would fail instead of waiting.
	aptLock = "/run/lock/agentk-apt.lock"
	// installLimit is how long one installation may take, waiting for the lock included.
	installLimit = 5 * time.Minute
	// tail is how much of apt-get's output an error carries, in bytes.
	tail = 2000
)

// sbin holds the folders of daemons, which are not in every user's PATH.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// Debian returns the path of a program that Debian package pkg brings, installing the package when the program is missing. It fails
// t, with the one command to run, where it cannot.
func Debian(t testing.TB, pkg, program string) string {
	t.Helper()
	path, err := Install(t.Context(), pkg, program)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Install is Debian outside of a test.
func Install(ctx context.Context, pkg, program string) (string, error) {
	if path, found := Find(program); found {
		return path, nil
	}
	if err := InstallPackages(ctx, pkg); err != nil {
		return "", fmt.Errorf("%s is missing: %w", program, err)
	}
	path, found := Find(program)
	if !found {
		return "", fmt.Errorf("%s is missing although package %s is installed", program, pkg)
	}
	return path, nil
}

// InstallPackages installs Debian packages, without their recommendations and without starting their services.
func InstallPackages(ctx context.Context, pkgs ...string) error {
	command := "apt-get install -y --no-install-recommends " + strings.Join(pkgs, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("as root, run: %s", command)
	}
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	unlock, err := Lock(ctx, aptLock)
	if err != nil {
		return err
	}
	defer unlock()
	restore, err := holdServices(policyPath)
	if err != nil {
		return err
	}
	defer restore()

	args := append([]string{"install", "-y", "--no-install-recommends"}, pkgs...)
	if apt(ctx, args...) == nil {
		return nil
	}
	// The package lists are missing or older than the archive: fetch them, then the second try counts.
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	return apt(ctx, args...)
}

// Find looks a program up in PATH and in the folders of daemons.
func Find(program string) (string, bool) {
	if path, err := exec.LookPath(program); err == nil {
		return path, true
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, true
		}
	}
	return "", false
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out[max(0, len(out)-tail):])
}
