package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/version"
)

var update = flag.Bool("update", false, "rewrite testdata")

// fakeProcess has an environment of its own.
type fakeProcess struct {
	Process
	out, err bytes.Buffer
	env      map[string]string
}

func newProcess(t *testing.T, env map[string]string) *fakeProcess {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	p := &fakeProcess{env: maps.Clone(env)}
	if p.env == nil {
		p.env = map[string]string{}
	}
	p.Process = Process{
		Out: &p.out, Err: &p.err,
		Getenv:   func(name string) string { return p.env[name] },
		Unsetenv: func(name string) error { delete(p.env, name); return nil },
		Environ: func() []string {
			var list []string
			for name, value := range p.env {
				list = append(list, name+"="+value)
			}
			return list
		},
		Hostname:      func() (string, error) { return "host", nil },
		NamespaceFile: filepath.Join(t.TempDir(), "namespace"),
	}
	return p
}

// started runs a command line and returns what the daemon would be started with.
func started(t *testing.T, p *fakeProcess, args ...string) agentk.Config {
	t.Helper()
	var got *agentk.Config
	run := func(_ context.Context, cfg agentk.Config, _ *telemetry.Log) error { got = &cfg; return nil }
	if code := Main(run, args, p.Process); code != 0 || got == nil {
		t.Fatalf("code %d: %s", code, p.err.String())
	}
	return *got
}

func kubeconfig(t *testing.T) string {
	t.Helper()
	return write(t, `{"apiVersion":"v1","kind":"Config","current-context":"a",
		"clusters":[{"name":"a","cluster":{"server":"https://a.example"}},{"name":"b","cluster":{"server":"https://b.example"}}],
		"users":[{"name":"u","user":{"token":"user-token"}}],
		"contexts":[{"name":"a","context":{"cluster":"a","user":"u"}},{"name":"b","context":{"cluster":"b","user":"u"}}]}`)
}

func write(t *testing.T, contents string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHelp(t *testing.T) {
	p := newProcess(t, nil)
	if code := Main(nil, []string{"--help"}, p.Process); code != 0 {
		t.Fatal(p.err.String())
	}
	golden := filepath.Join("testdata", "help.txt")
	if *update {
		if err := os.WriteFile(golden, p.out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), p.out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestVersion(t *testing.T) {
	p := newProcess(t, nil)
	if code := Main(nil, []string{"--version"}, p.Process); code != 0 || p.out.String() != "agentk version "+version.Version+" commit "+version.Commit+"\n" {
		t.Error(code, p.out.String())
	}
}

func TestFlags(t *testing.T) {
	p := newProcess(t, map[string]string{"POD_NAMESPACE": "ns", "POD_NAME": "pod", "GITLAB_AGENT_TELEMETRY_X": "y"})
	cfg := started(t, p,
		"--kas-address=wss://kas", "--token-file", write(t, "agent-token\n"), "--ca-cert-file=ca.pem", "--kas-header=x-a: 1", "--kas-header", "X-A:2",
		"--kas-insecure-skip-tls-verify", "--kas-tls-server-name=name", "--observability-listen-network=unix", "--observability-listen-address=/x",
		"--observability-cert-file=c", "--observability-key-file=k", "--tunnel-max-streams=9", "--impersonation-service-account=a/b",
		"--shutdown-grace-period=3s", "--log-format=console", "--kubeconfig", kubeconfig(t), "--context=b", "--cache-dir=/x",
	)
	if got := cfg.Kas.Token(); got != "agent-token" {
		t.Error(got)
	}
	if cfg.REST.Host != "https://b.example" || cfg.REST.BearerToken != "user-token" {
		t.Error(cfg.REST)
	}
	cfg.Kas.Token, cfg.REST = nil, nil
	want := agentk.Config{
		Kas: agentk.Kas{
			Address: "wss://kas", CAFile: "ca.pem", Header: map[string][]string{"X-A": {"1", "2"}}, InsecureSkipVerify: true, ServerName: "name",
		},
		ImpersonationServiceAccount: "a/b",
		Pod:                         agentk.Pod{Namespace: "ns", Name: "pod", Known: true, Telemetry: map[string]string{"x": "y"}},
		MaxStreams:                  9, GracePeriod: 3 * time.Second,
	}
	want.Observability.Network, want.Observability.Address = "unix", "/x"
	want.Observability.CertificateFile, want.Observability.KeyFile = "c", "k"
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(p.err.String(), "\tinfo\tagentk starts") {
		t.Error("log is not for people:", p.err.String())
	}
}

func TestEnvironment(t *testing.T) {
	p := newProcess(t, map[string]string{"AGENTK_TOKEN": "agent-token\n"})
	if err := os.WriteFile(p.NamespaceFile, []byte("from-file"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := started(t, p, "--kas-address=wss://kas", "--kubeconfig", kubeconfig(t))
	if got := cfg.Kas.Token(); got != "agent-token" {
		t.Error(got)
	}
	if _, there := p.env["AGENTK_TOKEN"]; there {
		t.Error("the token stays in the environment")
	}
	if cfg.Pod.Namespace != "from-file" || cfg.Pod.Name != "host" || cfg.Pod.Known {
		t.Error(cfg.Pod)
	}
	if !strings.Contains(p.err.String(), "POD_NAMESPACE or POD_NAME is not set") || strings.Contains(p.err.String(), "agent-token") {
		t.Error(p.err.String())
	}
	if cfg.Observability.Network != "tcp" || cfg.Observability.Address != ":8080" || cfg.MaxStreams != 5000 || cfg.GracePeriod != 10*time.Second {
		t.Error("defaults:", cfg)
	}
}

func TestGuessedPod(t *testing.T) {
	p := newProcess(t, map[string]string{"POD_NAME": "pod"})
	if got := findPod(p.Process, zap.NewNop()); got.Namespace != "default" || got.Name != "pod" || got.Known {
		t.Error(got)
	}
	p.Hostname = func() (string, error) { return "", errors.New("no") }
	p.env = nil
	if got := findPod(p.Process, zap.NewNop()); got.Name != "agentk" {
		t.Error(got)
	}
}

func TestBadFlags(t *testing.T) {
	good := []string{"--kas-address=wss://kas"}
	token := map[string]string{"AGENTK_TOKEN": "canary"}
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"no address":          {nil, token, "--kas-address is required"},
		"no token":            {good, nil, "--token-file or the environment variable AGENTK_TOKEN is required"},
		"empty token":         {good, map[string]string{"AGENTK_TOKEN": "\n"}, "AGENTK_TOKEN holds no token"},
		"two tokens":          {append(good, "--token-file=x"), token, "--token-file and the environment variable AGENTK_TOKEN"},
		"no token file":       {append(good, "--token-file=/nonexistent"), nil, "--token-file: stat /nonexistent"},
		"empty token file":    {append(good, "--token-file="+write(t, "\n")), nil, "file is empty"},
		"two CA files":        {append(good, "--kas-ca-cert-file=a", "--ca-cert-file=b"), token, "--ca-cert-file is the old name"},
		"certificate, no key": {append(good, "--observability-cert-file=a"), token, "both or neither"},
		"two accounts":        {append(good, "--impersonation-service-account=a/b", "--impersonation-token-file=f"), token, "give one of them"},
		"streams":             {append(good, "--tunnel-max-streams=1"), token, "--tunnel-max-streams: must be at least 2"},
		"streams text":        {append(good, "--tunnel-max-streams=many"), token, "--tunnel-max-streams"},
		"grace period":        {append(good, "--shutdown-grace-period=-1s"), token, "--shutdown-grace-period: must not be negative"},
		"log format":          {append(good, "--log-format=xml"), token, "--log-format: log format must be"},
		"header":              {append(good, "--kas-header=canary"), token, "--kas-header: must be of the form"},
		"header name":         {append(good, "--kas-header=a b: c"), token, "--kas-header: \"a b\" is not the name"},
		"header value":        {append(good, "--kas-header=a: canary\x00"), token, "--kas-header: the value of a has"},
		"receptive":           {append(good, "--api-listen-address=:1"), token, "--api-listen-address: agents that kas connects to are not supported yet"},
		"receptive mtls":      {append(good, "--api-mtls"), token, "--api-mtls: agents"},
		"private receptive":   {append(good, "--private-api-jwt-file=x"), token, "--private-api-jwt-file: agents"},
		"kubeconfig":          {append(good, "--kubeconfig=/nonexistent"), token, "access to the cluster: stat /nonexistent"},
		"context":             {append(good, "--kubeconfig="+kubeconfig(t), "--context=c"), token, "access to the cluster: context \"c\" does not exist"},
		"unknown flag":        {append(good, "--nope"), token, "unknown flag: --nope"},
		"argument":            {append(good, "nope"), token, "unknown command \"nope\""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, tc.env)
			run := func(context.Context, agentk.Config, *telemetry.Log) error { t.Error("started"); return nil }
			code := Main(run, tc.args, p.Process)
			if code != 1 || !strings.HasPrefix(p.err.String(), "Program aborted: ") || !strings.Contains(p.err.String(), tc.want) {
				t.Errorf("code %d: %s", code, p.err.String())
			}
			if strings.Contains(p.err.String(), "canary") {
				t.Error("a secret is shown:", p.err.String())
			}
		})
	}
}

func TestImpersonationFlags(t *testing.T) {
	p := newProcess(t, map[string]string{"AGENTK_TOKEN": "x"})
	cfg := started(t, p, "--kas-address=wss://kas", "--kubeconfig", kubeconfig(t), "--as=jane", "--as-uid=u", "--as-group=g", "--as-group=h")
	want := rest.ImpersonationConfig{UserName: "jane", UID: "u", Groups: []string{"g", "h"}}
	if diff := cmp.Diff(want, cfg.REST.Impersonate); diff != "" {
		t.Error(diff)
	}
}

// Losing --as would leave the agent with its own power, so client-go's check of the rest must not be passed without it.
func TestImpersonationFlags_NoKubeconfig(t *testing.T) {
	args := []string{"--kas-address=wss://kas", "--server=https://x", "--as-group=g"}
	p := newProcess(t, map[string]string{"AGENTK_TOKEN": "x"})
	if code := Main(nil, args, p.Process); code != 1 || !strings.Contains(p.err.String(), "without impersonating a user") {
		t.Error(code, p.err.String())
	}
	p = newProcess(t, map[string]string{"AGENTK_TOKEN": "x"})
	cfg := started(t, p, append(args, "--as=jane")...)
	if diff := cmp.Diff(rest.ImpersonationConfig{UserName: "jane", Groups: []string{"g"}}, cfg.REST.Impersonate); diff != "" {
		t.Error(diff)
	}
}

func TestTokenFile_Replaced(t *testing.T) {
	path := write(t, "one")
	synctest.Test(t, func(t *testing.T) { testTokenFileReplaced(t, path) })
}

func testTokenFileReplaced(t *testing.T, path string) {
	core, logs := observer.New(zap.InfoLevel)
	p := newProcess(t, nil)
	token, err := tokenSource(path, "", p.Process, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		time.Sleep(time.Second) // of the test's own time: for that long the file may go unread
		if got := token(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	expect("one")
	if err := os.WriteFile(path, []byte("second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("second")
	expect("second")
	if err := os.WriteFile(path, []byte("3"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("3")
	var got []string
	for _, e := range logs.All() {
		got = append(got, e.Message)
	}
	want := []string{"Agent token was replaced", "Agent token cannot be read, the last one stays in use", "Agent token was replaced"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMain_Signal(t *testing.T) {
	p := newProcess(t, map[string]string{"AGENTK_TOKEN": "x"})
	args := []string{"--kas-address=wss://kas", "--kubeconfig", kubeconfig(t)}
	code := Main(func(ctx context.Context, _ agentk.Config, _ *telemetry.Log) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return nil
	}, args, p.Process)
	if code != 0 || !strings.Contains(p.err.String(), "agentk stopped") {
		t.Error(code, p.err.String())
	}
}

func TestMain_Failure(t *testing.T) {
	p := newProcess(t, map[string]string{"AGENTK_TOKEN": "x"})
	args := []string{"--kas-address=wss://kas", "--kubeconfig", kubeconfig(t)}
	code := Main(func(context.Context, agentk.Config, *telemetry.Log) error { return errors.New("broken") }, args, p.Process)
	if code != 1 || !strings.HasSuffix(p.err.String(), "Program aborted: broken\n") {
		t.Error(code, p.err.String())
	}
}
