package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	pb "gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/stdio"
	"gitlab.com/agentk/agentk/test/kube"
)

// many is a commit of n ConfigMaps.
func many(n int, value string) files {
	content := files{}
	for i := range n {
		content[fmt.Sprintf("%03d.yaml", i)] = configMap(fmt.Sprintf("cm-%03d", i), value)
	}
	return content
}

// countOf returns how many ConfigMaps of a commit of many there are with that value.
func countOf(t *testing.T, namespace, value string) int {
	t.Helper()
	list, err := resource(t, configMaps, namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range list.Items {
		if strings.HasPrefix(list.Items[i].GetName(), "cm-") && field(&list.Items[i], "data", "key") == value {
			n++
		}
	}
	return n
}

func TestBreak_APIServerDownDuringApply(t *testing.T) {
	t.Parallel()
	cp := kube.StartT(t, kube.Config{})
	r := startRig(t, cp)
	p := &project{id: 1, spec: plainSpec()}
	content := many(200, "1")
	r.start(p, "c1", content)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	eventually(t, "a part is applied", func() bool { return r.recorder.count("PATCH", "/configmaps/cm-") > 30 })
	cp.KillAPIServer()
	f := r.finished(p)
	if f.GetError() == "" || f.GetUserError() || f.GetApplied() == 200 {
		t.Fatalf("with the API server down: %v", f)
	}
	if err := cp.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a retry succeeds", func() bool { f = r.finished(p); return f.GetError() == "" })
	if f.GetReason() != pb.Finished_RETRY || f.GetApplied()+f.GetUnchanged() != 200 {
		t.Errorf("%v", f)
	}
	if f := r.sync(p, "c2", many(10, "1")); f.GetPruned() != 190 {
		t.Errorf("%v", f)
	}
}

// process is the engine as agentk runs it.
type process struct {
	*rig
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *bytes.Buffer
}

// startProcess starts this test binary as the engine's executable, see TestMain.
func startProcess(t *testing.T) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asEngine+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: in, stderr: stderr, rig: &rig{t: t, to: stdio.NewWriter(in), recorder: &recorder{}, changed: make(chan struct{})}}
	listened := make(chan struct{})
	go func() { defer close(listened); p.listen(out) }()
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		<-listened
		_ = cmd.Wait()
	})
	kubeconfig, err := os.ReadFile(cluster.AdminKubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	p.send(&pb.ToEngine{Message: &pb.ToEngine_Setup{Setup: &pb.Setup{AgentId: agentID, Kubeconfig: kubeconfig}}})
	p.waitFor("Ready", func(m *pb.FromEngine) bool { return m.GetReady().GetVersion() != "" })
	p.waitFor("Metrics", func(m *pb.FromEngine) bool {
		return m.GetMetrics().GetResidentBytes() > 0 && m.GetMetrics().GetGoroutines() > 0
	})
	return p
}

func TestBreak_KilledDuringApplyThenRunAgain(t *testing.T) {
	t.Parallel()
	p, ns := newProject(t)
	first := startProcess(t)
	first.start(p, "c1", many(300, "1"))
	eventually(t, "a part is applied", func() bool { return countOf(t, ns, "1") > 20 })
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	left := countOf(t, ns, "1")
	if left == 300 {
		t.Error("the process was killed too late to tell anything")
	}
	second := startProcess(t)
	f := second.sync(p, "c2", many(10, "2"))
	if got := countOf(t, ns, "2"); got != 10 || countOf(t, ns, "1") != 0 {
		t.Errorf("%d of the new commit and %d of the old one are there: %v", got, countOf(t, ns, "1"), f)
	}
	if err := second.to.Write(&pb.ToEngine{}); err != nil {
		t.Fatal(err)
	}
	err := waitProcess(t, second)
	if err == nil || !strings.Contains(second.stderr.String(), "is not expected here") {
		t.Errorf("after a message that is none: %v, %s", err, second.stderr)
	}
}

func TestBreak_EndsAtOnceWithAgentk(t *testing.T) {
	t.Parallel()
	p, ns := newProject(t)
	e := startProcess(t)
	e.start(p, "c1", many(300, "1"))
	eventually(t, "a part is applied", func() bool { return countOf(t, ns, "1") > 20 })
	if err := e.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := waitProcess(t, e); err != nil {
		t.Errorf("the engine ended with %v: %s", err, e.stderr)
	}
	if n := countOf(t, ns, "1"); n == 300 {
		t.Error("the engine finished its run although nobody was there any more")
	}
}

// waitProcess waits for the end of a process, which a broken one could leave out.
func waitProcess(t *testing.T, p *process) error {
	t.Helper()
	kill := time.AfterFunc(deadline, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	return p.cmd.Wait()
}

func TestRun_EndsWithItsPipe(t *testing.T) {
	t.Parallel()
	if err := engine.Run(t.Context(), engine.Config{In: strings.NewReader(""), Out: stdio.NewWriter(&bytes.Buffer{})}); err != nil {
		t.Errorf("closed pipe: %v", err)
	}
	for name, m := range map[string]*pb.ToEngine{
		"Setup":                 {Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: "a"}}},
		"Kubernetes API server": {Message: &pb.ToEngine_Setup{Setup: &pb.Setup{Kubeconfig: []byte("no: kubeconfig: at all")}}},
	} {
		var in bytes.Buffer
		if err := stdio.NewWriter(&in).Write(m); err != nil {
			t.Fatal(err)
		}
		err := engine.Run(t.Context(), engine.Config{In: &in, Out: stdio.NewWriter(&bytes.Buffer{})})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits_NameFileAndBound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1")})
	big := strings.Repeat("#", 1<<20)
	for name, c := range map[string]struct {
		pieces []files
		words  []string
	}{
		"file":  {repeat(files{"big.yaml": big}, 6), []string{"big.yaml", "5242880"}},
		"total": {numbered(21, big), []string{".yaml", "20971520"}},
		"files": {numbered(1001, "#"), []string{"1000 files"}},
	} {
		r.announce(p, "c2", nil)
		for _, piece := range c.pieces {
			r.sendFiles(p.worker(), piece)
		}
		r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: p.worker()}}})
		f := r.finished(p)
		for _, w := range c.words {
			if !f.GetUserError() || !strings.Contains(f.GetError(), w) {
				t.Errorf("%s: %v", name, f)
			}
		}
		if !exists(t, configMaps, ns, "a") {
			t.Fatalf("%s: pruned", name)
		}
	}
}

func repeat(f files, n int) []files {
	all := make([]files, n)
	for i := range all {
		all[i] = f
	}
	return all
}

func numbered(n int, content string) []files {
	all := make([]files, n)
	for i := range all {
		all[i] = files{fmt.Sprintf("%d.yaml", i): content}
	}
	return all
}
