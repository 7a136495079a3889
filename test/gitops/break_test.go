//go:build e2e

package gitops

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

// many is how many objects are applied while something breaks: enough for the break to come in the middle.
const many = 150

// breakage is a line in the middle of applying a second commit to a first one: everything changes, one object goes.
type breakage struct {
	*unit
	commit    string
	bystander string // resource version of an object nobody may touch
}

func startBreakage(t *testing.T, b *bed) *breakage {
	t.Helper()
	content := files{"gone.yaml": configMap("gone", "1")}
	for i := range many {
		content[fmt.Sprintf("o%03d.yaml", i)] = configMap(fmt.Sprintf("o%03d", i), "1")
	}
	u := b.follow(t, "drift: {interval: 5s}", content)
	u.done(u.git("rev-parse", "HEAD"))
	if err := b.cp.Apply(t.Context(), configMapIn(u.namespace, "bystander", "mine")); err != nil {
		t.Fatal(err)
	}
	x := &breakage{unit: u, bystander: u.object(configMaps, "bystander").GetResourceVersion()}
	next := files{"gone.yaml": "", "new.yaml": configMap("new", "2")}
	for name, old := range content {
		if name != "gone.yaml" {
			next[name] = strings.Replace(old, `"1"`, `"2"`, 1)
		}
	}
	x.commit = u.push(next)
	eventually(t, func() string {
		if u.value("o000") != "2" {
			return "the second commit is not applied"
		}
		return ""
	})
	if u.value(fmt.Sprintf("o%03d", many-1)) == "2" {
		t.Log("the break comes after everything was applied")
	}
	return x
}

// right waits for the end state and looks at all of it.
func (x *breakage) right() {
	x.t.Helper()
	x.done(x.commit)
	for i := range many {
		if name := fmt.Sprintf("o%03d", i); x.value(name) != "2" {
			x.t.Errorf("%s is %q", name, x.value(name))
		}
	}
	if x.object(configMaps, "gone") != nil || x.value("new") != "2" {
		x.t.Error("what was removed from git is still there, or what is new is not")
	}
	if o := x.object(configMaps, "bystander"); o == nil || o.GetResourceVersion() != x.bystander {
		x.t.Errorf("an object outside the inventory was touched: %v", o)
	}
	inventory, _, _ := unstructured.NestedMap(x.object(configMaps, "inventory-"+x.inventory()).Object, "data")
	if len(inventory) != many+1 {
		x.t.Errorf("the inventory has %d objects", len(inventory))
	}
	x.sync(files{"last.yaml": configMap("last", "3")})
}

// child is the process id of an agent's engine.
func child(t *testing.T, b *bed, agent string) int {
	t.Helper()
	parent := strconv.Itoa(b.AgentPID(agent))
	tasks, _ := filepath.Glob("/proc/" + parent + "/task/*/children")
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				return pid
			}
		}
	}
	return 0
}

// ended waits until a process is gone.
func ended(t *testing.T, pid int) {
	t.Helper()
	eventually(t, func() string {
		if syscall.Kill(pid, 0) == nil {
			return fmt.Sprintf("process %d is still there", pid)
		}
		return ""
	})
}

func TestBreak_EngineKilled(t *testing.T) {
	t.Parallel()
	b := startBed(t, cluster, 11)
	x := startBreakage(t, b)
	agent, engine := b.AgentPID(agentName), child(t, b, agentName)
	if engine == 0 {
		t.Fatal("there is no engine")
	}
	if err := syscall.Kill(engine, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	x.right()
	if b.AgentPID(agentName) != agent || child(t, b, agentName) == engine {
		t.Error("agentk was started again, or the engine was not")
	}
}

func TestBreak_AgentKilled(t *testing.T) {
	t.Parallel()
	b := startBed(t, cluster, 12)
	x := startBreakage(t, b)
	engine := child(t, b, agentName)
	if _, err := b.KillAgent(t.Context(), agentName); err != nil {
		t.Fatal(err)
	}
	ended(t, engine)
	if err := b.StartAgent(t.Context(), agentName); err != nil {
		t.Fatal(err)
	}
	x.right()
}

func TestBreak_APIServerDown(t *testing.T) {
	t.Parallel()
	own := kube.StartT(t, kube.Config{ControllerManager: true})
	b := startBed(t, own, 13)
	x := startBreakage(t, b)
	own.KillAPIServer()
	// While it is down a pass fails, which is what this is about.
	if _, err := line.WaitLog(t.Context(), func() string { return b.AgentLog(agentName) }, "Synchronization failed"); err != nil {
		t.Fatal(err)
	}
	if err := own.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.right()
}

// second is one more pod of the agent.
var second = line.Agent{Name: "second", PodOf: agentName, Power: line.None, Env: []string{memory}, Manual: true}

// leads says whether a pod leads.
func leads(t *testing.T, b *bed, name string) bool {
	t.Helper()
	page, err := b.AgentMetrics(t.Context(), name)
	if err != nil {
		return false
	}
	v, _ := line.Metric(page, "agentk_leader")
	return v == "1"
}

func TestBreak_LeaderStops(t *testing.T) {
	t.Parallel()
	b := startBed(t, cluster, 14, second)
	x := startBreakage(t, b)
	if err := b.StartAgent(t.Context(), second.Name); err != nil {
		t.Fatal(err)
	}
	if leads(t, b, second.Name) {
		t.Fatal("two pods lead")
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	begun := time.Now()
	if _, err := b.StopAgent(ctx, agentName); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if !leads(t, b, second.Name) {
			return "the other pod does not lead"
		}
		return ""
	})
	t.Log("the other pod leads after", time.Since(begun).Round(time.Millisecond))
	x.right()
}

// The leader is frozen with its engine, as a pod is whose node stands still: it does not know that it leads no more when it goes on.
func TestBreak_TwoLeaders(t *testing.T) {
	t.Parallel()
	b := startBed(t, cluster, 15, second)
	x := startBreakage(t, b)
	engine := child(t, b, agentName)
	if err := b.FreezeAgent(agentName); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(engine, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := b.StartAgent(t.Context(), second.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if !leads(t, b, second.Name) {
			return "the other pod does not lead"
		}
		return ""
	})
	x.done(x.commit)
	commit := x.push(files{"o000.yaml": configMap("o000", "3"), "new.yaml": ""})
	x.done(commit)
	if err := b.ThawAgent(agentName); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(engine, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ended(t, engine)
	eventually(t, func() string { // the first knows when it has seen the end of its engine
		if leads(t, b, agentName) || !leads(t, b, second.Name) {
			return "not exactly the second pod leads"
		}
		return ""
	})
	// The old engine may have written the last commit but one in between; the drift interval mends it.
	eventually(t, func() string {
		if x.value("o000") != "3" || x.object(configMaps, "new") != nil {
			return fmt.Sprintf("o000 is %q", x.value("o000"))
		}
		return ""
	})
	x.commit = x.push(files{"o000.yaml": configMap("o000", "2"), "new.yaml": configMap("new", "2")})
	x.right()
}
