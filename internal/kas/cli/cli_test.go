package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/version"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// asDaemon makes the test binary be kas: "obedient" stops when it is told to, "deaf" does not.
const asDaemon = "KAS_TEST_AS_DAEMON"

func TestMain(m *testing.M) {
	kind := os.Getenv(asDaemon)
	if kind == "" {
		goleak.VerifyTestMain(m)
		return
	}
	run := func(ctx context.Context, _ *config.Config, _ *telemetry.Log) error {
		_, _ = os.Stdout.WriteString("running\n")
		<-ctx.Done()
		_, _ = os.Stdout.WriteString("stopping\n")
		if kind == "deaf" {
			time.Sleep(time.Hour)
		}
		return ctx.Err()
	}
	os.Exit(Main(run, os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

// kas runs one command line with a daemon that ends at once.
func kas(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	noDaemon := func(context.Context, *config.Config, *telemetry.Log) error { return errors.New("the daemon ran") }
	var out, errOut bytes.Buffer
	code = Main(noDaemon, args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errOut})
	return code, out.String(), errOut.String()
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kas.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const small = "standalone: {repositories_dir: /r}\nobservability: {sentry: {dsn: \"https://canary@sentry.test/1\"}}\nnew: 1\n"

func TestVersion_NeedsNoConfiguration(t *testing.T) {
	code, out, errOut := kas(t, "", "--version")
	if want := "kas version " + version.Version + " commit " + version.Commit + "\n"; code != 0 || out != want || errOut != "" {
		t.Errorf("code %d, %q, %q", code, out, errOut)
	}
}

func TestHelp_Golden(t *testing.T) {
	for name, args := range map[string][]string{
		"kas": nil, "validate": {"validate"}, "doctor": {"doctor"}, "standalone": {"standalone"}, "hash-token": {"standalone", "hash-token"}, "kubeconfig": {"standalone", "kubeconfig"},
	} {
		code, out, errOut := kas(t, "", append(args, "--help")...)
		if code != 0 || errOut != "" {
			t.Errorf("%s: code %d, %q", name, code, errOut)
		}
		golden := filepath.Join("testdata", name+".help")
		if *update {
			if err := os.WriteFile(golden, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestMistakesOfUse(t *testing.T) {
	for _, args := range [][]string{
		nil,
		{"--nope"},
		{"nope"},
		{"validate"},
		{"--configuration-file", "/nowhere/kas.yaml"},
		{"standalone", "nope"},
		{"standalone", "kubeconfig", "--job", "1"},
		{"standalone", "kubeconfig", "--job", "x"},
	} {
		code, out, errOut := kas(t, "", args...)
		if code != 1 || out != "" || !strings.HasPrefix(errOut, "Program aborted: ") || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: code %d, %q, %q", args, code, out, errOut)
		}
	}
}

func TestDaemon_FatalError(t *testing.T) {
	code, out, errOut := kas(t, "", "--configuration-file", write(t, small))
	if code != 1 || out != "" || errOut != "Program aborted: the daemon ran\n" {
		t.Errorf("code %d, %q, %q", code, out, errOut)
	}
}

func TestDaemon_LogsAsConfigured(t *testing.T) {
	var errOut bytes.Buffer
	run := func(_ context.Context, cfg *config.Config, log *telemetry.Log) error {
		log.Debug("from the daemon", zap.Strings("warnings", cfg.Warnings))
		return nil
	}
	args := []string{"--configuration-file", write(t, "standalone: {repositories_dir: /r}\nobservability: {logging: {level: debug, format: console}}\nnew: 1\n")}
	if code := Main(run, args, Streams{Err: &errOut}); code != 0 {
		t.Errorf("code %d", code)
	}
	if !strings.HasSuffix(errOut.String(), "\tdebug\tfrom the daemon\t{\"warnings\": [\"new (line 3): unknown key\"]}\n") {
		t.Errorf("got %q", errOut.String())
	}
}

func TestValidate(t *testing.T) {
	code, out, errOut := kas(t, "", "validate", "--configuration-file", write(t, small))
	wantErr := "warning: new (line 3): unknown key\nwarning: observability.sentry (line 2): not supported yet, has no effect\n"
	if code != 0 || errOut != wantErr {
		t.Errorf("code %d, %q", code, errOut)
	}
	for _, want := range []string{"address: 127.0.0.1:8150\n", "dsn: https://masked@sentry.test/1\n", "max_connection_age: 7200s\n", "repositories_dir: /r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if strings.Contains(out, "canary") {
		t.Errorf("a secret in\n%s", out)
	}
}

func TestValidate_Mistakes(t *testing.T) {
	path := write(t, "standalone:\n  repo: x\n  agents: 1\n")
	code, out, errOut := kas(t, "", "validate", "--configuration-file", path)
	want := "error: standalone.repo (line 2): unknown key\nerror: standalone.agents (line 3): must be a list, not a number\n" +
		"Program aborted: configuration file " + path + " is not valid\n"
	if code != 1 || out != "" {
		t.Errorf("code %d, %q", code, out)
	}
	if diff := cmp.Diff(want, errOut); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestHashToken(t *testing.T) {
	const hashOfAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
	for _, in := range []string{"abc", "abc\n"} {
		if code, out, errOut := kas(t, in, "standalone", "hash-token"); code != 0 || out != hashOfAbc || errOut != "" {
			t.Errorf("%q: code %d, %q, %q", in, code, out, errOut)
		}
	}
	for _, in := range []string{"", "\n", "abc\n\n", "abc\r\n", "two tokens", "canary\x00", strings.Repeat("x", maxTokenSize+1)} {
		if code, out, errOut := kas(t, in, "standalone", "hash-token"); code != 1 || out != "" || strings.Contains(errOut, "canary") {
			t.Errorf("%.20q: code %d, %q, %q", in, code, out, errOut)
		}
	}
}

func TestKubeconfig_Refusals(t *testing.T) {
	plain := write(t, "gitlab: {address: \"https://a\", authentication_secret_file: s}\nredis: {server: {address: a}}\n"+
		"api: {listen: {authentication_secret_file: s}}\nprivate_api: {listen: {authentication_secret_file: s}}\n")
	if _, _, errOut := kas(t, "", "standalone", "kubeconfig", "--configuration-file", plain, "--job", "1"); !strings.Contains(errOut, "has no standalone section") {
		t.Errorf("beside GitLab: %q", errOut)
	}
	file := write(t, small)
	t.Setenv(jobTokenEnv, "canary")
	for name, args := range map[string][]string{
		"unknown job": nil, "no such token file": {"--token-file", "/nowhere/token"}, "empty standard input": {"--token-file", "-"},
	} {
		code, out, errOut := kas(t, "", append([]string{"standalone", "kubeconfig", "--configuration-file", file, "--job", "1"}, args...)...)
		if code != 1 || out != "" || strings.Contains(errOut, "canary") {
			t.Errorf("%s: code %d, %q, %q", name, code, out, errOut)
		}
	}
}

func TestJobToken(t *testing.T) {
	t.Setenv(jobTokenEnv, "from-env")
	file := write(t, "from-file\n")
	for _, tt := range []struct{ flag, want string }{{"", "from-env"}, {"-", "from-stdin"}, {file, "from-file"}} {
		if got, err := jobToken(tt.flag, strings.NewReader("from-stdin\n")); err != nil || got != tt.want {
			t.Errorf("%q: %q, %v", tt.flag, got, err)
		}
	}
	if _, err := jobToken(t.TempDir(), nil); err == nil {
		t.Error("a folder is accepted")
	}
}

// process starts the test binary as a daemon and waits until it runs.
func process(t *testing.T, kind string) (*exec.Cmd, *io.PipeReader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "--configuration-file", write(t, small))
	cmd.Env = append(os.Environ(), asDaemon+"="+kind)
	r, w := io.Pipe()
	cmd.Stdout = w
	cmd.WaitDelay = 10 * time.Second
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	expect(t, r, "running\n")
	return cmd, r
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func signalTo(t *testing.T, cmd *exec.Cmd, sig os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func TestSignal_StopsInOrder(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd, r := process(t, "obedient")
		signalTo(t, cmd, sig)
		expect(t, r, "stopping\n")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
}

func TestSignal_SecondEndsAtOnce(t *testing.T) {
	cmd, r := process(t, "deaf")
	signalTo(t, cmd, syscall.SIGTERM)
	expect(t, r, "stopping\n")
	// The handlers go a moment after the first signal, so the second may have to be sent again.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(time.Minute)
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !errors.As(err, &exit) || !ok || !status.Signaled() {
				t.Errorf("ended with %v", err)
			}
			return
		case <-time.After(10 * time.Millisecond):
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-deadline:
			t.Fatal("still there after the second signal")
		}
	}
}
