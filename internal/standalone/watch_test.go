package standalone

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/fault"
)

// soon is well below the poll interval: who is faster was told by the file system.
const soon = 4 * time.Second

// pushes collects what OnPush is called with.
type pushes struct {
	mu   sync.Mutex
	list []string
}

func (p *pushes) add(project string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, project)
}

func (p *pushes) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.list
	p.list = nil
	return list
}

func waitChanged(t *testing.T, changed <-chan struct{}, limit time.Duration) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(limit):
		t.Fatalf("no change noticed within %s", limit)
	}
}

// settle returns when the watchers have had their first look: a marker push arrives.
func settle(t *testing.T, b *Backend, p *pushes, r *gitRepo) {
	t.Helper()
	changed := b.Changed()
	r.push()
	waitChanged(t, changed, 2*pollInterval)
	eventually(t, "first push is seen", func() bool { return len(p.take()) > 0 })
}

func TestWatch_Pushes(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	app := newGitRepo(t, root, "infra/team/app")
	app.push()
	p := &pushes{}
	b := newTestBackend(t, baseSection(root), func(c *Config) { c.OnPush = p.add })
	run(t, b)
	settle(t, b, p, r)

	steps := []struct {
		name string
		do   func()
		want []string
	}{
		{"push", func() { r.push() }, []string{"infra/agents"}},
		{"push to the other", func() { app.push() }, []string{"infra/team/app"}},
		{"push after gc", func() { runGit(t, r.bare, "gc", "--quiet"); r.push() }, []string{"infra/agents"}},
		{"force-push", func() {
			runGit(t, r.work, "reset", "--quiet", "--hard", "HEAD~1")
			r.write("forced", "x")
			r.push("--force")
		}, []string{"infra/agents"}},
		{"default branch deleted", func() {
			runGit(t, r.bare, "branch", "deep/er/branch")
			runGit(t, r.bare, "update-ref", "-d", "refs/heads/main")
		}, []string{"infra/agents"}},
		{"HEAD moved", func() { runGit(t, r.bare, "symbolic-ref", "HEAD", "refs/heads/deep/er/branch") }, []string{"infra/agents"}},
	}
	for _, step := range steps {
		changed := b.Changed()
		step.do()
		t.Log(step.name)
		waitChanged(t, changed, soon)
		eventually(t, step.name, func() bool { return cmp.Equal(step.want, slices.Compact(p.take())) })
	}

	// The branch is below refs/heads/deep/er now.
	changed := b.Changed()
	runGit(t, r.work, "push", "--quiet", "--force", "origin", "HEAD~1:deep/er/branch")
	waitChanged(t, changed, soon)

	// Nothing of this moves a default branch: it is told of as a push, for those who follow another ref, and as no change.
	eventually(t, "the last push is over", func() bool { return len(p.take()) == 0 })
	changed = b.Changed()
	for _, ref := range []string{"refs/heads/feature", "refs/heads/fea/ture", "refs/tags/v1"} {
		runGit(t, r.work, "push", "--quiet", "origin", "HEAD~1:"+ref)
		eventually(t, "push to "+ref, func() bool { return cmp.Equal([]string{"infra/agents"}, slices.Compact(p.take())) })
	}
	runGit(t, r.work, "push", "--quiet", "--force", "origin", "HEAD:refs/heads/fea/ture")
	eventually(t, "push to a branch that was there", func() bool { return cmp.Equal([]string{"infra/agents"}, slices.Compact(p.take())) })
	select {
	case <-changed:
		t.Error("a change was reported")
	case <-time.After(3 * debounce):
	}
}

func TestWatch_RepositoryAppearsAndGoes(t *testing.T) {
	root := t.TempDir()
	p := &pushes{}
	b := newTestBackend(t, baseSection(root), func(c *Config) { c.OnPush = p.add })
	run(t, b)
	r := newGitRepo(t, root, "infra/agents")
	r.push()
	eventually(t, "new repository is seen", func() bool { return cmp.Equal([]string{"infra/agents"}, p.take()) })
	remove(t, r.bare)
	eventually(t, "removal is seen", func() bool { return cmp.Equal([]string{"infra/agents"}, p.take()) })
}

func TestWatch_DamageIsNoPush(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	p := &pushes{}
	core, logs := observer.New(zap.WarnLevel)
	b := newTestBackend(t, baseSection(root), func(c *Config) { c.OnPush = p.add; c.Log = zap.New(core) })
	run(t, b)
	settle(t, b, p, r)
	commit := runGit(t, r.work, "rev-parse", "HEAD")
	overwrite(t, r.bare+"/refs/heads/main", "garbage")
	eventually(t, "damage is logged", func() bool { return logs.Len() == 1 })
	changed := b.Changed()
	overwrite(t, r.bare+"/refs/heads/main", commit+"\n")
	waitChanged(t, changed, 2*pollInterval)
	if list := p.take(); len(list) != 0 {
		t.Errorf("pushes reported: %v", list)
	}
}

func TestWatch_BetweenNewAndRun(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	p := &pushes{}
	b := newTestBackend(t, baseSection(root), func(c *Config) { c.OnPush = p.add })
	r.push()
	run(t, b)
	eventually(t, "push is seen", func() bool { return cmp.Equal([]string{"infra/agents"}, p.take()) })
}

func TestWatch_Expiry(t *testing.T) {
	root := t.TempDir()
	at := time.Now().Add(300 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	b := newTestBackend(t, baseSection(root)+"  expires_at: "+at+"\n", nil)
	run(t, b)
	changed := b.Changed()
	_, err := b.AllowedAgents(t.Context(), jobToken)
	if err != nil {
		t.Fatal(err)
	}
	waitChanged(t, changed, soon)
	_, err = b.AllowedAgents(t.Context(), jobToken)
	wantFault(t, err, fault.Unauthenticated)
}

// configured is a backend whose section comes from a file.
type configured struct {
	*Backend
	path string
	reg  *prometheus.Registry
	logs *observer.ObservedLogs
}

func newConfigured(t *testing.T, section, path string) *configured {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	c := &configured{path: path, reg: prometheus.NewPedanticRegistry(), logs: logs}
	c.Backend = newTestBackend(t, section, func(cfg *Config) {
		cfg.ConfigPath = path
		cfg.Reload = func() (*kascfg.StandaloneCF, error) { return reloadSection(path) }
		cfg.Registerer = c.reg
		cfg.Log = zap.New(core)
	})
	run(t, c.Backend)
	return c
}

func reloadSection(path string) (*kascfg.StandaloneCF, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	json, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	file := &kascfg.ConfigurationFile{}
	err = protojson.Unmarshal(json, file)
	if err != nil {
		return nil, errors.New("unknown key")
	}
	return file.GetStandalone(), nil
}

func (c *configured) valid(t *testing.T) float64 {
	t.Helper()
	n, err := testutil.GatherAndCount(c.reg, "kas_standalone_config_valid")
	if err != nil || n != 1 {
		t.Fatalf("%d metrics, %v", n, err)
	}
	return testutil.ToFloat64(c.Backend.valid)
}

func asFile(section string) string {
	return "standalone:\n" + strings.ReplaceAll(section, "\n", "\n  ")
}

func (c *configured) knows(t *testing.T, token string) bool {
	t.Helper()
	_, err := c.AgentByToken(t.Context(), token)
	if err != nil {
		wantFault(t, err, fault.Unauthenticated)
	}
	return err == nil
}

func TestReload_TokenRotationAndRevocation(t *testing.T) {
	root := t.TempDir()
	section := baseSection(root)
	path := filepath.Join(t.TempDir(), "kas.yaml")
	overwrite(t, path, asFile(section))
	c := newConfigured(t, section, path)

	changed := c.Changed()
	both := strings.Replace(section, HashToken(agentToken), HashToken(agentToken)+", "+HashToken("new"), 1)
	writeBeside(t, path, asFile(both))
	waitChanged(t, changed, soon)
	if !c.knows(t, agentToken) || !c.knows(t, "new") {
		t.Error("two tokens are not both good")
	}

	changed = c.Changed()
	overwrite(t, path, asFile(strings.Replace(section, HashToken(agentToken), HashToken("new"), 1)))
	waitChanged(t, changed, soon)
	if c.knows(t, agentToken) || !c.knows(t, "new") {
		t.Error("token is not revoked")
	}
}

// writeBeside replaces a file as editors do.
func writeBeside(t *testing.T, path, content string) {
	t.Helper()
	overwrite(t, path+".new", content)
	err := os.Rename(path+".new", path)
	if err != nil {
		t.Fatal(err)
	}
}

func TestReload_InvalidKeepsLastGood(t *testing.T) {
	root := t.TempDir()
	section := baseSection(root)
	path := filepath.Join(t.TempDir(), "kas.yaml")
	overwrite(t, path, asFile(section))
	c := newConfigured(t, section, path)
	if c.valid(t) != 1 {
		t.Error("valid section is not reported so")
	}
	for _, bad := range []struct{ content, reason string }{
		{"standalone: {surprise: 1}", "unknown key"},
		{"{", "yaml"},
		{"{}", "section standalone is missing"},
		{asFile(strings.Replace(section, "project: infra/agents", "project: infra/none", 1)), `project "infra/none" is not listed`},
	} {
		c.logs.TakeAll()
		writeBeside(t, path, bad.content)
		eventually(t, "reason is logged: "+bad.reason, func() bool {
			for _, l := range c.logs.All() {
				if msg, _ := l.ContextMap()["error"].(string); strings.Contains(msg, bad.reason) {
					return true
				}
			}
			return false
		})
		if c.valid(t) != 0 || !c.knows(t, agentToken) {
			t.Errorf("%s: valid %v, last good kept %v", bad.reason, c.valid(t), c.knows(t, agentToken))
		}
	}
	remove(t, path)
	eventually(t, "missing file is logged", func() bool {
		return c.logs.FilterMessageSnippet("invalid").Len() >= 2
	})
	writeBeside(t, path, asFile(section))
	eventually(t, "valid again", func() bool { return c.valid(t) == 1 })
	if c.logs.FilterMessageSnippet("reloaded").Len() != 0 {
		t.Error("an unchanged section was reloaded")
	}
}

func TestReload_MountedSecret(t *testing.T) {
	root, mount := t.TempDir(), t.TempDir()
	section := baseSection(root)
	version := func(name, content string) {
		err := os.Mkdir(filepath.Join(mount, name), 0o755)
		if err != nil {
			t.Fatal(err)
		}
		overwrite(t, filepath.Join(mount, name, "kas.yaml"), content)
		err = os.Symlink(name, filepath.Join(mount, "..data_tmp"))
		if err != nil {
			t.Fatal(err)
		}
		err = os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data"))
		if err != nil {
			t.Fatal(err)
		}
	}
	version("..1", asFile(section))
	path := filepath.Join(mount, "kas.yaml")
	err := os.Symlink("..data/kas.yaml", path)
	if err != nil {
		t.Fatal(err)
	}
	c := newConfigured(t, section, path)
	old := HashToken(agentToken)
	for i, token := range []string{"two", "three"} {
		changed := c.Changed()
		section = strings.Replace(section, old, HashToken(token), 1)
		old = HashToken(token)
		version("..n"+token, asFile(section))
		remove(t, filepath.Join(mount, []string{"..1", "..ntwo"}[i]))
		waitChanged(t, changed, soon)
		if !c.knows(t, token) || c.knows(t, agentToken) {
			t.Errorf("%s: tokens did not change", token)
		}
	}
}

func TestReload_NewProjectIsWatched(t *testing.T) {
	root := t.TempDir()
	section := baseSection(root)
	path := filepath.Join(t.TempDir(), "kas.yaml")
	overwrite(t, path, asFile(section))
	p := &pushes{}
	b := newTestBackend(t, section, func(cfg *Config) {
		cfg.ConfigPath = path
		cfg.Reload = func() (*kascfg.StandaloneCF, error) { return reloadSection(path) }
		cfg.OnPush = p.add
	})
	run(t, b)
	r := newGitRepo(t, root, "infra/late")
	r.push()
	overwrite(t, path, asFile(strings.Replace(section, "projects:", "projects:\n- {id: 77, path: infra/late}", 1)))
	eventually(t, "new project is announced", func() bool { return cmp.Equal([]string{"infra/late"}, p.take()) })
	r.push()
	eventually(t, "its pushes are seen", func() bool { return cmp.Equal([]string{"infra/late"}, p.take()) })
}
