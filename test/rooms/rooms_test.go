// Package rooms holds the rules between the rooms of this repository: who may import whom, and what a daemon must not link.
package rooms

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "gitlab.com/agentk/agentk/"

// pkg is what "go list" says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
}

// room is a package path without the module's, or "" for foreign packages.
func room(path string) string {
	inner, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	return inner
}

func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func packages(t *testing.T) []pkg {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(goList(t, "-json=ImportPath,Imports", module+"..."))))
	var all []pkg
	for {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// features are the rooms with an agent half and a server half.
var features = []string{"internal/agentconfig", "internal/gitops", "internal/registrar"}

func featureOf(path string) string {
	for _, f := range features {
		if path == f || strings.HasPrefix(path, f+"/") {
			return f
		}
	}
	return ""
}

// spoken are the parts of the GitOps engine that agentk has, too: how the two talk, and what the engine leaves in the cluster.
var spoken = map[string]bool{"internal/gitops/engine/stdio": true, "internal/gitops/engine/status": true}

func TestImports(t *testing.T) {
	all := packages(t)
	if len(all) < 20 {
		t.Fatalf("only %d packages found", len(all))
	}
	for _, p := range all {
		from := room(p.ImportPath)
		for _, imported := range p.Imports {
			to := room(imported)
			if to == "" {
				continue
			}
			switch {
			case strings.HasPrefix(from, "api/") && !strings.HasPrefix(to, "api/"):
				t.Errorf("%s imports %s: the wire imports nothing of ours", from, to)
			case strings.HasPrefix(from, "internal/") && strings.HasPrefix(to, "test/"):
				t.Errorf("%s imports %s: product code does not import test code", from, to)
			case strings.HasPrefix(from, "internal/gitops/agent") && strings.HasPrefix(to, "internal/gitops/engine") && !spoken[to]:
				t.Errorf("%s imports %s: what renders and applies is in a process of its own", from, to)
			case strings.HasPrefix(from, "internal/gitops/render") && strings.HasPrefix(to, "internal/") && to != "internal/gitops/selection":
				t.Errorf("%s imports %s: repositories are rendered by themselves, without anything that could reach out", from, to)
			case strings.HasSuffix(from, "/agent") && strings.HasSuffix(to, "/server"):
				t.Errorf("%s imports %s: an agent half does not import a server half", from, to)
			case featureOf(from) != "" && featureOf(to) != "" && featureOf(from) != featureOf(to):
				t.Errorf("%s imports %s: features do not import each other", from, to)
			case strings.HasPrefix(from, "cmd/") && !strings.HasPrefix(to, "internal/kas") && !strings.HasPrefix(to, "internal/agentk") &&
				(from != "cmd/agentk-gitops" || to != "internal/gitops/engine"):
				t.Errorf("%s imports %s: a main imports its daemon only", from, to)
			case from == "internal/identity" && !strings.HasPrefix(to, "api/"):
				t.Errorf("%s imports %s: identities are made by pure functions", from, to)
			}
		}
	}
}

// TestAgentkLinks keeps the agent small and away from what only the server or other processes need.
func TestAgentkLinks(t *testing.T) {
	foreign := []string{"client-go/kubernetes", "k8s.io/api/core", "cli-utils", "kustomize", "helm.sh", "go-git", "redis", "gitaly"}
	own := []string{
		"internal/kas/", "internal/standalone", "internal/k8sproxy", "internal/store", "internal/agentserver", "internal/agentauth",
		"internal/gitops/engine", "internal/gitops/render", "internal/gitops/server",
	}
	for dep := range strings.Lines(string(goList(t, "-deps", module+"cmd/agentk"))) {
		dep = strings.TrimSpace(dep)
		for _, f := range foreign {
			if room(dep) == "" && strings.Contains(dep, f) {
				t.Errorf("agentk links %s", dep)
			}
		}
		for _, o := range own {
			if r := room(dep); (r == strings.TrimSuffix(o, "/") || strings.HasPrefix(r, o)) && !spoken[r] {
				t.Errorf("agentk links %s", r)
			}
		}
	}
}

// maxAgentk is how large agentk may be without symbols, in bytes: what it took before it knew of GitOps, less what was saved since.
const maxAgentk = 24_000_000

// TestAgentkSize: what agentk links is in memory at every customer, whether it is used or not.
func TestAgentkSize(t *testing.T) {
	program := filepath.Join(t.TempDir(), "agentk")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, module+"cmd/agentk")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxAgentk {
		t.Errorf("agentk has %d bytes, at most %d are wanted: see go tool nm -size -sort size", info.Size(), maxAgentk)
	}
}
