//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

// noise is bytes without a pattern, the same in every run.
func noise(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // it never fails
	return content
}

func TestExec(t *testing.T) {
	eachProtocol(t, func(t *testing.T, j job) {
		j.webPod(t)
		t.Run("20 MB there and back", func(t *testing.T) {
			sent := noise(20_000_000)
			cmd := j.kubectl(soon(t), t, "exec", "-i", "web", "--", "cat")
			cmd.Stdin = bytes.NewReader(sent)
			got := output(t, cmd)
			if len(got) != len(sent) || sha256.Sum256([]byte(got)) != sha256.Sum256(sent) {
				t.Errorf("%d bytes came back that differ from the %d sent", len(got), len(sent))
			}
		})
		t.Run("the end of input arrives", func(t *testing.T) {
			sent := noise(1_000_000)
			cmd := j.kubectl(soon(t), t, "exec", "-i", "web", "--", "sha256sum")
			cmd.Stdin = bytes.NewReader(sent)
			if got, want := output(t, cmd), fmt.Sprintf("%x", sha256.Sum256(sent)); !strings.HasPrefix(got, want) {
				t.Errorf("sum = %s, want %s", got, want)
			}
		})
		t.Run("output and errors stay apart", func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := j.kubectl(soon(t), t, "exec", "web", "--", "sh", "-c", "echo out; echo err >&2")
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil || stdout.String() != "out\n" || stderr.String() != "err\n" {
				t.Errorf("standard output %q, standard error %q, %v", &stdout, &stderr, err)
			}
		})
		for _, code := range []int{0, 1, 7, 255} {
			t.Run(fmt.Sprintf("exit code %d", code), func(t *testing.T) {
				err := j.kubectl(soon(t), t, "exec", "web", "--", "sh", "-c", fmt.Sprintf("exit %d", code)).Run()
				if got := exitCode(t, err); got != code {
					t.Errorf("exit code %d, want %d", got, code)
				}
			})
		}
		t.Run("killed by a signal", func(t *testing.T) {
			err := j.kubectl(soon(t), t, "exec", "web", "--", "sh", "-c", "kill -9 $$").Run()
			if got, want := exitCode(t, err), 137; got != want {
				t.Errorf("exit code %d, want %d", got, want)
			}
		})
		t.Run("no such program", func(t *testing.T) {
			out, err := j.kubectl(soon(t), t, "exec", "web", "--", "nonesuch").CombinedOutput()
			if exitCode(t, err) == 0 || !strings.Contains(string(out), "nonesuch") {
				t.Errorf("%v: %s, want an error that names the program", err, out)
			}
		})
	})
}

// exitCode is that of a program that was run.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exit.ExitCode()
}
