package kube

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// killDelay is how long a killed kubectl may keep its pipes open.
const killDelay = 2 * time.Second

// Kubectl runs kubectl as administrator and returns its standard output. The error carries standard error.
func (cp *ControlPlane) Kubectl(ctx context.Context, args ...string) (string, error) {
	return output(cp.KubectlCommand(ctx, cp.AdminKubeconfig, args...))
}

// Apply creates or changes the objects of a manifest (YAML or JSON) as administrator, with server-side apply.
func (cp *ControlPlane) Apply(ctx context.Context, manifest string) error {
	cmd := cp.KubectlCommand(ctx, cp.AdminKubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := output(cmd)
	return err
}

// KubectlCommand returns kubectl ready to start, as whoever the kubeconfig says. Input, output and further environment are the
// caller's; the end of ctx kills it. It keeps its discovery cache below Dir and reads nothing of the user's home.
func (cp *ControlPlane) KubectlCommand(ctx context.Context, kubeconfig string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(cp.Bin, "kubectl"), args...)
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+kubeconfig, "KUBECACHEDIR="+filepath.Join(cp.Dir, "kubectl-cache"), "KUBERC=off")
	cmd.WaitDelay = killDelay
	return cmd
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		name := filepath.Base(cmd.Path)
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(cmd.Args[1:], " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
