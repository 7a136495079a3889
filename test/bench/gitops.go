package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

const (
	// syncObjects is how many objects are synchronised, syncKinds of how many kinds.
	syncObjects = 500
	syncKinds   = 4
	syncProject = "acme/manifests"
	// syncLimit bounds one pass.
	syncLimit = 5 * time.Minute
)

// cost is what one pass took.
type cost struct {
	seconds, calls, cpu, memory float64
}

// syncScene is a cluster of its own, in which an agent and kubectl do the same, each in a namespace of its own.
type syncScene struct {
	cluster *kube.ControlPlane
	l       *line.Line
	seen    int // audit events that were counted
}

// gitopsRows measure the first apply of 500 objects, a pass that finds nothing to do, and the change of one object: by an agent that
// follows a repository, and by kubectl with an ApplySet.
func gitopsRows(ctx context.Context, _ effort, progress func(string)) ([]row, error) {
	progress("GitOps: starting etcd, kube-apiserver, kas and agentk")
	s := &syncScene{}
	defer s.stop()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return calmly(ctx, s.daemons(), progress, func() ([]row, error) { return s.rows(ctx, progress) })
}

func (s *syncScene) rows(ctx context.Context, progress func(string)) ([]row, error) {
	var rows []row
	for _, step := range []struct {
		name    string
		changed bool
		prepare func(context.Context) (done func() (bool, error), err error)
	}{
		{"first", true, s.push(allObjects("1"))},
		{"noop", false, s.unchanged},
		{"one", true, s.push(map[string]string{"o0000.yaml": object(0, "2")})},
	} {
		ours, err := s.measure(ctx, step.prepare)
		if err != nil {
			return rows, fmt.Errorf("GitOps, %s: %w", step.name, err)
		}
		theirs, err := s.kubectl(ctx)
		if err != nil {
			return rows, fmt.Errorf("kubectl, %s: %w", step.name, err)
		}
		progress(fmt.Sprintf("GitOps %s: agent %+v, kubectl %+v", step.name, ours, theirs))
		rows = append(rows, compare("gitops_"+step.name, theirs, ours, step.changed)...)
	}
	return rows, nil
}

// compare makes rows of two costs. A pass without changes has a goal: one LIST per kind.
func compare(name string, direct, ours cost, changed bool) []row {
	one := func(what, unit string, direct, ours float64, g goal) row {
		return figure(name+"_"+what, unit, []float64{direct}, []float64{ours}, g)
	}
	calls := goal{}
	if !changed {
		calls = most(plain, syncKinds)
	}
	rows := []row{
		one("calls", "requests", direct.calls, ours.calls, calls),
		one("cpu", "s", direct.cpu, ours.cpu, goal{}), one("rss", "MiB", direct.memory, ours.memory, goal{}),
	}
	if changed { // otherwise the wall time would be that of the wait for the interval
		return append([]row{one("wall", "s", direct.seconds, ours.seconds, goal{})}, rows...)
	}
	return rows
}

func (s *syncScene) start(ctx context.Context) error {
	var err error
	if s.cluster, err = kube.Start(ctx, kube.Config{ControllerManager: true, Audit: "Metadata"}); err != nil {
		return err
	}
	if err := s.cluster.Apply(ctx, "{apiVersion: v1, kind: Namespace, metadata: {name: agent}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: kubectl}}\n"); err != nil {
		return err
	}
	config := "gitops: {manifest_projects: [{id: " + syncProject + ", default_namespace: agent, drift: {interval: 5s}}]}\n"
	s.l, err = line.Start(ctx, line.Config{
		ControlPlane: s.cluster, Jobs: []line.Job{},
		Agents: []line.Agent{{
			ID: 7, Name: agent, Project: "acme/infra", Config: config, Power: line.None, ClusterRole: "cluster-admin",
			GitOpsProjects: []string{syncProject}, Env: []string{"AGENTK_GITOPS_MEMORY_LIMIT=1Gi"},
		}},
	})
	return err
}

// daemons are kas and the agent, without its engine.
func (s *syncScene) daemons() []watched {
	return []watched{
		{name: "kas", pid: s.l.KasPID(), page: s.l.KasPage},
		{name: "agentk", pid: s.l.AgentPID(agent), page: func(ctx context.Context, path string) (string, error) { return s.l.AgentPage(ctx, agent, path) }},
	}
}

func (s *syncScene) stop() {
	if s.l != nil {
		s.l.Stop()
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
}

// object is number i of the objects, of one kind of four.
func object(i int, value string) string {
	name := fmt.Sprintf("o%04d", i)
	switch i % syncKinds {
	case 1:
		return fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: %s}, stringData: {v: %q}}\n", name, value)
	case 2:
		return fmt.Sprintf("{apiVersion: v1, kind: ServiceAccount, metadata: {name: %s, labels: {v: %q}}}\n", name, value)
	case 3:
		return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s, labels: {v: %q}}, spec: {clusterIP: None, ports: [{port: 80}]}}\n", name, value)
	default:
		return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {v: %q}}\n", name, value)
	}
}

func allObjects(value string) map[string]string {
	all := map[string]string{}
	for i := range syncObjects {
		all[fmt.Sprintf("o%04d.yaml", i)] = object(i, value)
	}
	return all
}

// push changes files; it is done when their commit is synchronised.
func (s *syncScene) push(files map[string]string) func(context.Context) (func() (bool, error), error) {
	return func(ctx context.Context) (func() (bool, error), error) {
		commit, err := s.l.Push(ctx, syncProject, files)
		return func() (bool, error) {
			for text := range strings.Lines(s.l.AgentLog(agent)) {
				if strings.Contains(text, commit) && strings.Contains(text, "Objects synchronized") {
					return true, nil
				}
			}
			return false, nil
		}, err
	}
}

// unchanged is done after the next pass that found nothing.
func (s *syncScene) unchanged(ctx context.Context) (func() (bool, error), error) {
	before, err := s.metric(ctx, `agentk_syncs_total{result="unchanged"}`)
	return func() (bool, error) {
		now, err := s.metric(ctx, `agentk_syncs_total{result="unchanged"}`)
		return now > before, err
	}, err
}

func (s *syncScene) metric(ctx context.Context, name string) (float64, error) {
	page, err := s.l.AgentMetrics(ctx, agent)
	if err != nil {
		return 0, err
	}
	text, ok := line.Metric(page, name)
	if !ok {
		return 0, fmt.Errorf("no metric %s", name)
	}
	return strconv.ParseFloat(text, 64)
}

// measure runs one pass of the agent. The wall time is that from before git push until the pass is over.
func (s *syncScene) measure(ctx context.Context, prepare func(context.Context) (func() (bool, error), error)) (cost, error) {
	ctx, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	if _, err := s.calls(false); err != nil {
		return cost{}, err
	}
	var engine int
	err := line.Wait(ctx, func(context.Context) error { // it may just be starting
		var err error
		engine, err = s.engine()
		return err
	})
	if err != nil {
		return cost{}, err
	}
	before, _, err := usage(engine)
	if err != nil {
		return cost{}, err
	}
	begun := time.Now()
	done, err := prepare(ctx)
	if err != nil {
		return cost{}, err
	}
	err = line.Wait(ctx, func(context.Context) error {
		over, err := done()
		if err == nil && !over {
			err = errors.New("the pass is not over")
		}
		return err
	})
	c := cost{seconds: time.Since(begun).Seconds()}
	if err != nil {
		return cost{}, err
	}
	after, memory, err := usage(engine)
	if err != nil {
		return cost{}, err
	}
	c.cpu, c.memory = after-before, memory
	c.calls, err = s.calls(true)
	return c, err
}

// kubectl applies what git holds, as the ApplySet of a Secret.
func (s *syncScene) kubectl(ctx context.Context) (cost, error) {
	ctx, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	if _, err := s.calls(false); err != nil {
		return cost{}, err
	}
	cmd := s.cluster.KubectlCommand(ctx, s.cluster.AdminKubeconfig, "apply", "--server-side", "--prune", "--applyset=bench", "--namespace=kubectl",
		"--filename", s.l.CloneDir(syncProject))
	cmd.Env = append(cmd.Env, "KUBECTL_APPLYSET=true")
	c, err := measured(cmd)
	if err != nil {
		return cost{}, err
	}
	c.calls, err = s.calls(true)
	return c, err
}

// calls counts what the API server was asked since the last call by the engine or kubectl, if wanted. Leases are the agent's, not the
// engine's.
func (s *syncScene) calls(wanted bool) (float64, error) {
	events, err := s.cluster.AuditEvents()
	if err != nil {
		return 0, err
	}
	n := 0.0
	for _, e := range events[s.seen:] {
		if wanted && (strings.HasPrefix(e.UserAgent, "agentk-gitops/") || strings.HasPrefix(e.UserAgent, "kubectl")) {
			n++
		}
	}
	s.seen = len(events)
	return n, nil
}

// engine is the process id of the agent's engine.
func (s *syncScene) engine() (int, error) { return engineOf(s.l.AgentPID(agent)) }

// engineOf is the process id of an agent's engine, its only child.
func engineOf(pid int) (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if fields := strings.Fields(string(data)); err == nil && len(fields) > 0 {
			return strconv.Atoi(fields[0])
		}
	}
	return 0, errors.New("the agent has no GitOps engine")
}

// usage is how many seconds of CPU a process has used, and how many MiB it holds.
func usage(pid int) (cpu, memory float64, err error) {
	if cpu, err = cpuOf(pid); err != nil {
		return 0, 0, err
	}
	memory, err = memoryOf(pid, "VmRSS")
	return cpu, memory, err
}
