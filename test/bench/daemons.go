package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	idleAgent = "idle"
	// idleFor is how long daemons rest before their memory is read.
	idleFor = 20 * time.Second
)

// idleDaemons is the memory of daemons that have just been started and have nothing to do: one agent, connected, without GitOps. The
// engine that an agent with GitOps starts is beside them.
func idleDaemons(ctx context.Context, st *stage) ([]row, error) {
	l, err := st.lone(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	wait := idleFor
	if st.quick {
		wait /= 4
	}
	if err := pause(ctx, wait); err != nil {
		return nil, err
	}
	// RSS first: the question about the heap collects garbage.
	kas, err1 := memoryOf(l.KasPID(), "VmRSS")
	agentk, err2 := memoryOf(l.AgentPID(idleAgent), "VmRSS")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	rows := []row{
		figure("kas_rss_mb", "MiB", nil, []float64{kas}, most(plain, 30)),
		figure("agentk_rss_mb", "MiB", nil, []float64{agentk}, most(plain, 35)),
	}
	kasHeap, err1 := heapOf(ctx, filepath.Join(l.Dir, "kas.sock"))
	agentHeap, err2 := heapOf(ctx, filepath.Join(l.Dir, "agentk-"+idleAgent+".sock"))
	if err := errors.Join(err1, err2); err != nil {
		return rows, err
	}
	rows = append(rows,
		figure("kas_heap_mb", "MiB", nil, []float64{kasHeap}, noGoal()), figure("agentk_heap_mb", "MiB", nil, []float64{agentHeap}, noGoal()))
	engine, err := engineMemory(ctx, l, wait)
	if err != nil {
		return rows, err
	}
	return append(rows, figure("engine_rss_mb", "MiB", nil, []float64{engine}, noGoal())), nil
}

// lone starts a line of its own with one agent, and a second one with GitOps that is not started.
func (st *stage) lone(ctx context.Context) (*line.Line, error) {
	if err := st.startCluster(ctx); err != nil {
		return nil, err
	}
	return line.Start(ctx, line.Config{
		ControlPlane: st.cluster,
		Agents: []line.Agent{
			{ID: 7, Name: idleAgent, Project: "acme/infra", Config: line.CIAccess("{ci_job: {}}", project)},
			{
				ID: 8, Name: agent, Project: "acme/infra", GitOpsProjects: []string{syncProject}, Manual: true,
				Power: line.None, ClusterRole: "cluster-admin",
				Config: "gitops: {manifest_projects: [{id: " + syncProject + "}]}\n",
			},
		},
		Jobs: []line.Job{{ID: job, Project: project}},
	})
}

// engineMemory is what the engine of an agent with GitOps holds when it has nothing to synchronise.
func engineMemory(ctx context.Context, l *line.Line, wait time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := l.StartAgent(ctx, agent); err != nil {
		return 0, err
	}
	var pid int
	err := line.Wait(ctx, func(context.Context) error {
		var err error
		pid, err = engineOf(l.AgentPID(agent))
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, wait/2); err != nil {
		return 0, err
	}
	return memoryOf(pid, "VmRSS")
}

// heapOf is a daemon's Go heap in use and its stacks, after a garbage collection, in MiB.
func heapOf(ctx context.Context, socket string) (float64, error) {
	page, err := unixPage(ctx, socket, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, name := range []string{"# HeapInuse = ", "# Stack = "} {
		_, after, found := strings.Cut(page, "\n"+name)
		text, _, _ := strings.Cut(after, "\n")
		text, _, _ = strings.Cut(text, " ")
		bytes, err := strconv.ParseFloat(text, 64)
		if !found || err != nil {
			return 0, fmt.Errorf("the heap profile has no %q: %q", name, text)
		}
		total += bytes
	}
	return total / (1 << 20), nil
}
