// Package doctor breaks installations on purpose, with real parts, and holds "agentk doctor" and "kas doctor" to finding out: the cause,
// words that lead to its repair, and the exit code.
package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/internal/doctor"
	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
)

var cluster *kube.ControlPlane

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(&suite{kube.Tests(m, kube.Config{}, &cluster)})
}

// suite stops what tests share after the last of them.
type suite struct{ kube *kube.Suite }

func (s *suite) Run() int {
	code := s.kube.Run()
	if shared.line != nil {
		shared.line.Stop()
	}
	return code
}

// Jobs of the shared line.
const (
	goodJob    = 9001
	poorJob    = 9002 // the cluster gives it no rights
	deniedJob  = 9003 // no agent lets it in
	lateJob    = 9004 // its agent does not run
	weakJob    = 9005 // its agent may not impersonate
	productDir = "acme/infra"
)

var shared struct {
	once sync.Once
	line *line.Line
	err  error
}

// theLine is one line for all tests, with TLS from a private authority. Nobody changes it.
func theLine(t *testing.T) *line.Line {
	t.Helper()
	shared.once.Do(func() { shared.line, shared.err = startLine() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.line
}

func startLine() (*line.Line, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	jobOf := func(id int64, project string) line.Job { return line.Job{ID: id, Project: project} }
	denied := jobOf(deniedJob, "elsewhere/shop")
	denied.Denied = true
	l, err := line.Start(ctx, line.Config{
		ControlPlane: cluster, Scheme: line.WSS,
		Projects: []line.Project{{ID: 42, Path: "acme/shop"}},
		Agents: []line.Agent{
			{ID: 7, Name: "demo", Project: productDir, Config: line.CIAccess("{ci_job: {}}", "acme/shop", "acme/poor")},
			{ID: 8, Name: "late", Project: "acme/late-infra", Config: line.CIAccess("{ci_job: {}}", "acme/late"), Manual: true},
			{ID: 9, Name: "weak", Project: "acme/weak-infra", Config: line.CIAccess("{ci_job: {}}", "acme/weak"), Power: line.None},
			{ID: 11, Name: "typo", Project: "acme/typo-infra", Config: "ci_acces: {}", Manual: true},
			{ID: 12, Name: "mute", Project: "acme/mute-infra", Manual: true},
			{ID: 10, Name: "gone", Project: "acme/gone", Revoked: true, Manual: true, Token: "glagent-that-was-revoked"},
		},
		Jobs: []line.Job{
			jobOf(goodJob, "acme/shop"), jobOf(poorJob, "acme/poor"), denied, jobOf(lateJob, "acme/late"), jobOf(weakJob, "acme/weak"),
		},
	})
	if err != nil {
		return nil, err
	}
	return l, cluster.Apply(ctx, `
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: shop, namespace: default}, rules: [
  {apiGroups: [""], resources: [configmaps], verbs: ["*"]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: shop, namespace: default},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: shop},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "gitlab:project:42"}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: lease, namespace: gitlab-agent-demo}, rules: [
  {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: lease, namespace: gitlab-agent-demo},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: lease},
 subjects: [{kind: ServiceAccount, name: gitlab-agent, namespace: gitlab-agent-demo}]}`)
}

// runLimit is more than the doctor promises to take at most.
const runLimit = 3 * time.Minute

// examine runs a doctor and returns its report. secrets must not be in what it prints.
func examine(t *testing.T, env []string, secrets []string, program string, args ...string) *doctor.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"doctor", "-o", "json"}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	cmd.WaitDelay = 2 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := &doctor.Report{}
	if err := json.Unmarshal(out.Bytes(), r); err != nil || errOut.Len() > 0 {
		t.Fatalf("%s %q: %v\n%s\n%s", filepath.Base(program), args, err, &out, &errOut)
	}
	if got := cmd.ProcessState.ExitCode(); got != r.ExitCode {
		t.Errorf("the process ended with %d, its report says %d", got, r.ExitCode)
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(out.String(), secret) {
			t.Errorf("the report shows a secret:\n%s", &out)
		}
	}
	if t.Failed() {
		t.Logf("%s", &out)
	}
	return r
}

// diagnosis is what a doctor must find.
type diagnosis struct {
	// check is the one that fails first, cause what it finds, exit the exit code.
	check, cause string
	exit         int
	// seen is in what it says it saw, fix in what it says helps.
	seen, fix string
}

func (want diagnosis) confirm(t *testing.T, r *doctor.Report) {
	t.Helper()
	for i := range r.Checks {
		c := &r.Checks[i]
		if c.Status != doctor.Fail {
			continue
		}
		if c.ID != want.check || c.CauseID != want.cause || r.ExitCode != want.exit {
			t.Errorf("check %q finds %q (%s), exit code %d; want %q, %q, %d", c.ID, c.CauseID, c.What, r.ExitCode, want.check, want.cause, want.exit)
		}
		if !strings.Contains(c.What, want.seen) {
			t.Errorf("seen: %s\nwant in it: %s", c.What, want.seen)
		}
		if !strings.Contains(c.Fix, want.fix) || want.fix == "" {
			t.Errorf("fix: %s\nwant in it: %q", c.Fix, want.fix)
		}
		if !strings.HasSuffix(c.Reference, "#"+want.cause) {
			t.Errorf("reference: %s", c.Reference)
		}
		return
	}
	t.Errorf("nothing is wrong: %s; want %q of check %q", brief(r), want.cause, want.check)
}

// green fails t unless all is well but for checks that may be skipped.
func green(t *testing.T, r *doctor.Report, maySkip ...string) {
	t.Helper()
	for i := range r.Checks {
		c := &r.Checks[i]
		if c.Status == doctor.OK || c.Status == doctor.Skipped && contains(maySkip, c.ID) {
			continue
		}
		t.Errorf("%s: %s, %s (%s)", c.ID, c.Status, c.What, c.CauseID)
	}
	if r.ExitCode != 0 || len(r.Checks) == 0 {
		t.Errorf("exit code %d, %d checks", r.ExitCode, len(r.Checks))
	}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func brief(r *doctor.Report) string {
	var b strings.Builder
	for i := range r.Checks {
		fmt.Fprintf(&b, "%s: %s, ", r.Checks[i].ID, r.Checks[i].Status)
	}
	return b.String()
}

// find returns one check of a report.
func find(t *testing.T, r *doctor.Report, id string) *doctor.Result {
	t.Helper()
	for i := range r.Checks {
		if r.Checks[i].ID == id {
			return &r.Checks[i]
		}
	}
	t.Fatalf("no check %q: %s", id, brief(r))
	return nil
}

func binaries(t *testing.T) line.Binaries {
	t.Helper()
	b, err := line.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// write makes a file with some content.
func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// output runs a program and returns all that it prints, and its exit code.
func output(ctx context.Context, args []string) (string, int) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}
