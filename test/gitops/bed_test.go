package gitops

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// bed is a line whose agents follow what tests tell them to.
type bed struct {
	*line.Line
	cp      *kube.ControlPlane
	agentID int64

	mu     sync.Mutex // guards all below, and the order of pushes of the configuration
	used   int        // projects that were given to tests
	units  map[string]string
	charts map[string]string
}

// memory is more than the engine's default: a program with the race detector takes many times as much.
const memory = "AGENTK_GITOPS_MEMORY_LIMIT=3Gi"

// newBed describes kas and an agent that may do everything in the cluster; extra are more agents.
func newBed(cp *kube.ControlPlane, agentID int64, extra ...line.Agent) (*bed, line.Config) {
	cfg := line.Config{ControlPlane: cp, Jobs: []line.Job{}}
	agent := line.Agent{
		ID: agentID, Name: agentName, Project: configProject, Config: "gitops: {}\n", Power: line.None, ClusterRole: "cluster-admin",
		Env: []string{memory},
	}
	for i := range projects {
		agent.GitOpsProjects = append(agent.GitOpsProjects, projectName(i))
		cfg.Projects = append(cfg.Projects, line.Project{ID: projectID(i), Path: projectName(i)})
	}
	cfg.Projects = append(cfg.Projects, line.Project{ID: 900, Path: foreign})
	cfg.Agents = append([]line.Agent{agent}, extra...)
	return &bed{cp: cp, agentID: agentID, units: map[string]string{}, charts: map[string]string{}}, cfg
}

// startBed starts a line of the test's own, on a cluster that others may use, too.
func startBed(t *testing.T, cp *kube.ControlPlane, agentID int64, extra ...line.Agent) *bed {
	t.Helper()
	b, cfg := newBed(cp, agentID, extra...)
	b.Line = line.StartT(t, cfg)
	return b
}

func projectName(i int) string { return fmt.Sprintf("acme/manifests-%d", i) }

func projectID(i int) int64 { return int64(1000 + i) }

// configure publishes which projects and charts the agent follows. The caller holds b.mu.
func (b *bed) configure(ctx context.Context) error {
	list := func(key string, entries map[string]string) string {
		var text []string
		for _, entry := range entries {
			text = append(text, entry)
		}
		slices.Sort(text)
		return fmt.Sprintf("  %s: [%s]\n", key, strings.Join(text, ",\n    "))
	}
	_, err := b.PushConfig(ctx, agentName, "gitops:\n"+list("manifest_projects", b.units)+list("charts", b.charts))
	return err
}

// project gives a test a project of its own.
func (b *bed) project(t *testing.T) (path string, id int64) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used == projects {
		t.Fatal("there are more tests than projects")
	}
	b.used++
	return projectName(b.used - 1), projectID(b.used - 1)
}

// unit is a manifest project that the agent follows. Its objects go into a namespace of its own.
type unit struct {
	t         *testing.T
	bed       *bed
	project   string
	namespace string
	id        int64
}

// newUnit makes a project and a namespace for a test and does not follow it yet.
func (b *bed) newUnit(t *testing.T) *unit {
	t.Helper()
	u := &unit{t: t, bed: b}
	u.project, u.id = b.project(t)
	u.namespace = fmt.Sprintf("ns-%d-%d", b.agentID, u.id)
	if err := b.cp.Apply(t.Context(), "{apiVersion: v1, kind: Namespace, metadata: {name: "+u.namespace+"}}"); err != nil {
		t.Fatal(err)
	}
	return u
}

// follow makes the agent follow a new project that has some files. Options are further keys of its configuration, in flow style.
func (b *bed) follow(t *testing.T, options string, content files) *unit {
	t.Helper()
	u := b.newUnit(t)
	if content != nil {
		u.push(content)
	}
	u.configure(options)
	return u
}

// configure changes how the project is followed.
func (u *unit) configure(options string) {
	u.t.Helper()
	entry := fmt.Sprintf("{id: %s, default_namespace: %s, prune_timeout: 120s", u.project, u.namespace)
	if !strings.Contains(options, "reconcile_timeout") {
		entry += ", reconcile_timeout: 120s"
	}
	if options != "" {
		entry += ", " + options
	}
	u.bed.mu.Lock()
	defer u.bed.mu.Unlock()
	u.bed.units[u.project] = entry + "}"
	if err := u.bed.configure(u.t.Context()); err != nil {
		u.t.Fatal(err)
	}
}

// forget takes the project out of the configuration.
func (u *unit) forget() {
	u.t.Helper()
	u.bed.mu.Lock()
	defer u.bed.mu.Unlock()
	delete(u.bed.units, u.project)
	if err := u.bed.configure(u.t.Context()); err != nil {
		u.t.Fatal(err)
	}
}

// files maps paths to contents; an empty content removes the file.
type files map[string]string

// push pushes changes and returns the commit.
func (u *unit) push(content files) string {
	u.t.Helper()
	commit, err := u.bed.Push(u.t.Context(), u.project, content)
	if err != nil {
		u.t.Fatal(err)
	}
	return commit
}

// git runs git in the project's clone.
func (u *unit) git(args ...string) string {
	u.t.Helper()
	out, err := u.bed.Git(u.t.Context(), u.project, args...)
	if err != nil {
		u.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
