package gitaly

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

const (
	testSecret  = "abc123secret"
	testStorage = "default"
	configPath  = ".gitlab/agents/demo/config.yaml"
	configText  = "ci_access: {}\n"
)

// bed is a server with repositories that git made, and a client.
type bed struct {
	*testing.T
	root     string
	server   *double.Server
	client   *Client
	clock    *clock
	logs     *observer.ObservedLogs
	registry *prometheus.Registry
}

func newBed(t *testing.T, change func(*double.Config)) *bed {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	b := &bed{T: t, root: t.TempDir(), clock: newClock(), logs: logs, registry: prometheus.NewRegistry()}
	cfg := double.Config{Storages: map[string]string{testStorage: b.root}, Token: testSecret, Now: b.clock.Now}
	if change != nil {
		change(&cfg)
	}
	var err error
	b.server, err = double.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.server.Stop)
	b.client, err = newClient(Config{
		Global: RateLimit{PerSecond: 1e6, Burst: 1e6}, PerServer: RateLimit{PerSecond: 1e6, Burst: 1e6},
		Log: zap.New(core), Registerer: b.registry,
	}, b.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.client.Close)
	return b
}

// project is what GitLab says of the project with a repository.
func (b *bed) project(name string) backend.Project {
	return backend.Project{
		Path:   "group/" + name,
		Gitaly: &entity.GitalyInfo{Address: b.server.TCPAddress(), Token: testSecret},
		Repository: &entity.GitalyRepository{
			StorageName: testStorage, RelativePath: name + ".git", GlRepository: "project-1", GlProjectPath: "group/" + name,
		},
	}
}

func (b *bed) on(name, branch string) backend.Project {
	p := b.project(name)
	p.DefaultBranch = branch
	return p
}

func (b *bed) git(name string, stdin string, args ...string) string {
	b.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir", filepath.Join(b.root, name+".git")}, args...)...)
	cmd.Env = []string{"HOME=" + os.DevNull, "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull}
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("git %s: %v: %s", args[0], err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// repo makes a repository from the commands of git fast-import.
func (b *bed) repo(name, format string, commands ...string) {
	b.Helper()
	b.git(name, "", "init", "--quiet", "--bare", "--object-format="+format, "--initial-branch=main")
	if len(commands) > 0 {
		b.git(name, strings.Join(commands, ""), "fast-import", "--quiet")
	}
}

// commit is a fast-import command; what are the lines of its changes.
func commit(ref string, what ...string) string {
	return "commit " + ref + "\ncommitter T <t@example.com> 1700000000 +0000\ndata 1\nc\n" + strings.Join(what, "") + "\n"
}

func add(mode, path, content string) string {
	return fmt.Sprintf("M %s inline %q\ndata %d\n%s\n", mode, path, len(content), content)
}

func fixture(b *bed) {
	b.repo(
		"full", "sha1",
		commit("refs/heads/main",
			add("100644", configPath, configText), add("100644", ".gitlab/agents/other/config.yaml", ""),
			add("100644", ".gitlab/agents/demo/more/config.yaml", "a"), add("100644", ".gitlab/agents/Bad_Name/config.yaml", "a"),
			add("100644", ".gitlab/agents/-bad/config.yaml", "a"), add("100644", ".gitlab/agents/"+strings.Repeat("a", 64)+"/config.yaml", "a"),
			add("100644", ".gitlab/agents/config.yaml", "a"), add("100644", ".gitlab/agents/yml/config.yml", "a"),
			add("120000", ".gitlab/agents/link/config.yaml", "../demo/config.yaml"), add("100644", ".gitlab/agents/folder/config.yaml/x", "a"),
			add("100644", "empty.txt", ""), add("100755", "run.sh", "#!/bin/sh\n"), add("120000", "link", "run.sh"),
			"M 160000 "+oid1+" sub\n", add("100644", "sp ace/f ile.txt", "space"), add("100644", "dir/ümlaut", "utf-8"),
			add("100644", "big.bin", strings.Repeat("0123456789", 30000))),
		"reset refs/heads/feature\nfrom refs/heads/main\n\n",
		"tag v1\nfrom refs/heads/main\ntagger T <t@example.com> 1700000000 +0000\ndata 1\nt\n",
		commit("refs/heads/main", "M 100755 inline run.sh\ndata 1\na\n"),
	)
}

func (b *bed) oid(name, revision string) string {
	b.Helper()
	return b.git(name, "", "rev-parse", "--verify", revision)
}

func (b *bed) wantKind(err error, kind fault.Kind, texts ...string) {
	b.Helper()
	if err == nil || fault.KindOf(err) != kind {
		b.Errorf("got %v, want %v", err, kind)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			b.Errorf("%q does not say %q", err, text)
		}
	}
	if strings.Contains(err.Error(), testSecret) {
		b.Errorf("%q tells the secret", err)
	}
}

func (b *bed) methods() []string {
	var methods []string
	for _, c := range b.server.Calls("") {
		methods = append(methods, c.Method)
	}
	return methods
}

func (b *bed) wantCalls(want ...string) {
	b.Helper()
	if got := b.methods(); !slices.Equal(got, want) {
		b.Errorf("calls %v, want %v", got, want)
	}
	b.server.ForgetCalls()
}
