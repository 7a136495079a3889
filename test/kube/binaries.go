package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/tool"
)

// assetsVariable is the ecosystem's own way to name a folder with etcd, kube-apiserver and kubectl; when set, those are used.
const assetsVariable = "KUBEBUILDER_ASSETS"

// versionPackage holds the version strings that kube-apiserver and kubectl report.
const versionPackage = "k8s.io/component-base/version"

// multiCall names the programs that are one binary, told apart by the name it is called by: they share most of their code.
var multiCall = []string{
	"etcd", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
}

// Binaries returns the folder that holds etcd, kube-apiserver and kubectl: that of KUBEBUILDER_ASSETS when set, else our own build,
// which also holds kube-controller-manager, kube-scheduler, kubelet and kube-proxy. The first build takes up to five minutes on two
// cores and says so on standard error; test binaries that run side by side wait for the one that builds.
func Binaries(ctx context.Context) (string, error) {
	dir, set := os.LookupEnv(assetsVariable)
	if !set || dir == "" {
		return ownBinaries(ctx)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%s: %w", assetsVariable, err)
		}
	}
	return dir, nil
}

// program returns the path of one Kubernetes program: that of bin, else of our own build. The folder of KUBEBUILDER_ASSETS usually
// holds neither controllers nor node.
func program(ctx context.Context, bin, name string) (string, error) {
	path := filepath.Join(bin, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	own, err := ownBinaries(ctx)
	if err != nil {
		return "", err
	}
	return filepath.Join(own, name), nil
}

func ownBinaries(ctx context.Context) (string, error) {
	c, err := openCache()
	if err != nil {
		return "", err
	}
	_, err = c.ensure(ctx, "kc", func(ctx context.Context, out string) error {
		for _, name := range multiCall {
			link := filepath.Join(c.dir, name)
			if err := os.Symlink("kc", link); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		flags, err := c.kubernetesVersion(ctx)
		if err != nil {
			return err
		}
		return c.goBuild(ctx, "recipe/kc", flags, out, ".")
	})
	return c.dir, err
}

// Helm returns the path of helm, building it when missing (up to a minute and a half).
func Helm(ctx context.Context) (string, error) {
	c, err := openCache()
	if err != nil {
		return "", err
	}
	return c.ensure(ctx, "helm", func(ctx context.Context, out string) error {
		version, err := c.moduleVersion(ctx, "recipe/helm", "helm.sh/helm/v3")
		if err != nil {
			return err
		}
		flags := "-X helm.sh/helm/v3/internal/version.version=" + version
		return c.goBuild(ctx, "recipe/helm", flags, out, "helm.sh/helm/v3/cmd/helm")
	})
}

// kubernetesVersion returns the linker flags that make the programs report the Kubernetes version they were built from. The rest is
// constant, so that a rebuild gives the same bytes.
func (c *cache) kubernetesVersion(ctx context.Context) (string, error) {
	version, err := c.moduleVersion(ctx, "recipe/kc", "k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("version of k8s.io/kubernetes is %q, want vMAJOR.MINOR.PATCH", version)
	}
	var flags []string
	for _, value := range []string{
		"gitVersion=" + version, "gitMajor=" + parts[0], "gitMinor=" + parts[1],
		"gitTreeState=clean", "gitCommit=modproxy", "buildDate=2026-01-01T00:00:00Z",
	} {
		flags = append(flags, "-X "+versionPackage+"."+value)
	}
	return strings.Join(flags, " "), nil
}

func (c *cache) moduleVersion(ctx context.Context, recipe, module string) (string, error) {
	out, err := c.goCommand(ctx, recipe, "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", module, withStderr(err))
	}
	return strings.TrimSpace(string(out)), nil
}

// goBuild builds one main package of the module in a folder of this package.
func (c *cache) goBuild(ctx context.Context, folder, linkerFlags, out, pkg string) error {
	cmd := c.goCommand(ctx, folder, "build", "-trimpath", "-ldflags", "-s -w "+linkerFlags, "-o", out, pkg)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", folder, err, output[max(0, len(output)-2000):])
	}
	return nil
}

func (c *cache) goCommand(ctx context.Context, folder string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(c.source, folder)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	return cmd
}

// ensure returns the path of a file in the cache, making it first when missing. The file appears whole or not at all, and only one
// process of the machine makes it.
func (c *cache) ensure(ctx context.Context, name string, create func(ctx context.Context, out string) error) (string, error) {
	path := filepath.Join(c.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := tool.Lock(ctx, filepath.Join(c.dir, "lock-"+name))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	stop := progress("build " + name + " for the test bed, once on this machine")
	defer stop()
	fresh := filepath.Join(c.dir, "new-"+name)
	if err := create(ctx, fresh); err != nil {
		return "", fmt.Errorf("build %s for the test bed: %w", name, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", err
	}
	return path, nil
}

// progress tells on standard error that something long has begun, and every ten seconds that it still goes on.
func progress(what string) func() {
	start := time.Now()
	fmt.Fprintln(os.Stderr, what)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(os.Stderr, "%s: %.0f s\n", what, time.Since(start).Seconds())
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// withStderr adds what a program said on standard error to the error of its Output.
func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}
