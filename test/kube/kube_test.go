package kube

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

var shared *ControlPlane

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		victim()
	}
	goleak.VerifyTestMain(Tests(m, Config{Audit: "Metadata"}, &shared))
}

// soon bounds what takes a moment on an idle machine.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestKubectl(t *testing.T) {
	ctx := soon(t)
	if err := shared.Apply(ctx, "{apiVersion: v1, kind: ConfigMap, metadata: {name: greeting}, data: {word: hello}}"); err != nil {
		t.Fatal(err)
	}
	got, err := shared.Kubectl(ctx, "get", "configmap", "greeting", "-o", "jsonpath={.data.word}")
	if err != nil || got != "hello" {
		t.Errorf("word = %q, %v; want hello", got, err)
	}
	_, err = shared.Kubectl(ctx, "get", "configmap", "missing")
	if err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("err = %v, want what kubectl said about the missing object", err)
	}
	if err := shared.Apply(ctx, "kind: Nonsense"); err == nil {
		t.Error("a manifest of no kind was applied")
	}
}

func TestRBAC_ServiceAccountMayOnlyImpersonate(t *testing.T) {
	ctx := soon(t)
	token, err := shared.CreateServiceAccount(ctx, "agent-ns", "agent")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := shared.CreateServiceAccount(ctx, "agent-ns", "agent"); err != nil || again == "" {
		t.Errorf("token of the existing account = %q, %v", again, err)
	}
	kubeconfig, err := shared.KubeconfigForToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := output(shared.KubectlCommand(ctx, kubeconfig, "get", "configmaps")); err == nil {
		t.Error("an account without rights listed ConfigMaps")
	}
	err = shared.Apply(ctx, `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: impersonate},
 rules: [{apiGroups: [""], resources: [users, groups], verbs: [impersonate]},
         {apiGroups: [authentication.k8s.io], resources: ["*"], verbs: [impersonate]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: impersonate},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: impersonate},
 subjects: [{kind: ServiceAccount, name: agent, namespace: agent-ns}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: read},
 rules: [{apiGroups: [""], resources: [configmaps], verbs: [list]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: read},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: read},
 subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: readers}]}`)
	if err != nil {
		t.Fatal(err)
	}
	err = wait(ctx, "the rights to be in force", nil, func() error {
		_, err := output(shared.KubectlCommand(ctx, kubeconfig, "get", "configmaps", "--as", "job",
			"--as-group", "readers", "--as-user-extra", "agent.gitlab.com/id=7"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	event, err := shared.WaitAudit(ctx, func(e AuditEvent) bool {
		return e.Verb == "list" && e.ObjectRef.Resource == "configmaps" && e.ImpersonatedUser != nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &AuditUser{
		Username: "job", Groups: []string{"readers", "system:authenticated"}, Extra: map[string][]string{"agent.gitlab.com/id": {"7"}},
	}
	if diff := cmp.Diff(want, event.ImpersonatedUser); diff != "" {
		t.Errorf("impersonated user (-want +got):\n%s", diff)
	}
	if got := event.User.Username; got != "system:serviceaccount:agent-ns:agent" {
		t.Errorf("authenticated user = %q", got)
	}
}

func TestKubeconfigFor_UserAndGroups(t *testing.T) {
	kubeconfig, err := shared.KubeconfigFor("alice", "staff", "night-shift")
	if err != nil {
		t.Fatal(err)
	}
	got, err := output(shared.KubectlCommand(soon(t), kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `alice ["staff","night-shift","system:authenticated"]`; got != want {
		t.Errorf("whoami = %s, want %s", got, want)
	}
}

func TestAPIServer_KilledAndBack(t *testing.T) {
	cp := StartT(t, Config{})
	ctx := soon(t)
	if err := cp.Apply(ctx, "{apiVersion: v1, kind: ConfigMap, metadata: {name: kept}}"); err != nil {
		t.Fatal(err)
	}
	cp.KillAPIServer()
	if _, err := cp.Kubectl(ctx, "get", "configmap", "kept"); err == nil {
		t.Error("a killed API server answered")
	}
	if err := cp.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := cp.Kubectl(ctx, "get", "configmap", "kept"); err != nil {
		t.Error(err)
	}
}

func TestControllerManager_NothingStaysAfterStop(t *testing.T) {
	cp, err := Start(soon(t), Config{ControllerManager: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cp.Kubectl(soon(t), "get", "serviceaccount", "default"); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	cp.Stop()
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("Stop took %v", took)
	}
	for _, p := range []*process{cp.etcd, cp.apiServer, cp.controller} {
		if err := unix.Kill(-p.cmd.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: process group still there (%v)", p.name, err)
		}
	}
	if _, err := os.Stat(cp.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s: %v, want it gone", cp.Dir, err)
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(cp.URL, "https://")); err == nil {
		conn.Close()
		t.Error("something still listens on the API server's port")
	}
}

// victimVariable makes this test binary start a control plane, print its processes and wait to be killed.
const victimVariable = "KUBE_TEST_VICTIM"

func victim() {
	cp, err := Start(context.Background(), Config{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(cp.Dir, cp.etcd.cmd.Process.Pid, cp.apiServer.cmd.Process.Pid)
	select {}
}

func TestStart_ProcessesDieWithAKilledTest(t *testing.T) {
	cmd := exec.CommandContext(soon(t), os.Args[0])
	cmd.Env = append(os.Environ(), victimVariable+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(stdout).ReadString('\n')
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a killed process ended well")
	}
	var dir string
	var etcd, apiServer int
	if _, err := fmt.Sscan(line, &dir, &etcd, &apiServer); err != nil {
		t.Fatalf("line %q: %v", line, errors.Join(readErr, err))
	}
	defer os.RemoveAll(dir)
	gone := func() error {
		if unix.Kill(-etcd, 0) == nil || unix.Kill(-apiServer, 0) == nil {
			return errors.New("still running")
		}
		return nil
	}
	if err := wait(soon(t), "etcd and kube-apiserver to die", nil, gone); err != nil {
		t.Error(err)
	}
}

func TestStart_BadFlagNamesTheServer(t *testing.T) {
	_, err := Start(soon(t), Config{ExtraArgs: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "kube-apiserver ended") || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("err = %v, want one that names kube-apiserver and the flag", err)
	}
}

func TestBinaries_AssetsFolderWithoutEtcd(t *testing.T) {
	t.Setenv(assetsVariable, t.TempDir())
	if _, err := Binaries(t.Context()); err == nil || !strings.Contains(err.Error(), assetsVariable) {
		t.Errorf("err = %v, want one that names %s", err, assetsVariable)
	}
}
