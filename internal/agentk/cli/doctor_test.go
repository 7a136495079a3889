package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"gitlab.com/agentk/agentk/internal/doctor/kubeapi"
)

func TestParseAction(t *testing.T) {
	for text, want := range map[string]kubeapi.Attributes{
		"get pods":                      {Verb: "get", Resource: "pods"},
		"create pods/exec":              {Verb: "create", Resource: "pods", Subresource: "exec"},
		"create deployments.apps":       {Verb: "create", Resource: "deployments", Group: "apps"},
		"get x.stable.example.com":      {Verb: "get", Resource: "x", Group: "stable.example.com"},
		"update deployments/scale.apps": {Verb: "update", Resource: "deployments", Subresource: "scale", Group: "apps"},
		"update deployments.apps/scale": {Verb: "update", Resource: "deployments", Subresource: "scale", Group: "apps"},
	} {
		got, err := parseAction(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	}
	for _, text := range []string{"", "pods", "get pods now"} {
		if got, err := parseAction(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// commandLine is a file as the kernel shows a process's command line.
func commandLine(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cmdline")
	if err := os.WriteFile(path, []byte(strings.Join(args, "\x00")+"\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDoctor_AdoptsTheAgentsFlags(t *testing.T) {
	agent := commandLine(t, "/usr/bin/agentk", "--kas-address", "wss://kas.test/", "--token-file=/etc/token", "--kas-header", "A: b",
		"--kas-header", "C: d", "--kas-tls-server-name", "other.test", "--shutdown-grace-period=3s", "--kas-insecure-skip-tls-verify")
	adopt := func(file string, own ...string) *options {
		t.Helper()
		o := &doctorOptions{}
		f := pflag.NewFlagSet("doctor", pflag.ContinueOnError)
		o.agent.bind(f)
		if err := f.Parse(own); err != nil {
			t.Fatal(err)
		}
		if err := o.adoptAgentFlags(f, file); err != nil {
			t.Fatal(err)
		}
		return &o.agent
	}
	got := adopt(agent, "--kas-tls-server-name", "mine.test")
	if got.kasAddress != "wss://kas.test/" || got.tokenFile != "/etc/token" || got.serverName != "mine.test" || !got.insecure ||
		!slices.Equal(got.headers, []string{"A: b", "C: d"}) {
		t.Errorf("got %+v", got)
	}
	for name, got := range map[string]*options{
		"an address of its own": adopt(agent, "--kas-address", "wss://mine.test"),
		"another program":       adopt(commandLine(t, "/pause", "--kas-address", "wss://kas.test/")),
		"the doctor itself":     adopt(commandLine(t, "agentk", "doctor", "--job", "--token-file=/etc/token")),
		"no such file":          adopt("/nowhere/cmdline"),
		"nothing":               adopt(""),
	} {
		if got.tokenFile != "" {
			t.Errorf("%s: flags are taken over", name)
		}
	}
}

func TestDoctor_AgentWithStrangeFlags(t *testing.T) {
	o := &doctorOptions{}
	f := pflag.NewFlagSet("doctor", pflag.ContinueOnError)
	o.agent.bind(f)
	if err := o.adoptAgentFlags(f, commandLine(t, "agentk", "--no-such-flag", "canary")); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("error %v", err)
	}
}

func TestDoctor_Help(t *testing.T) {
	p := newProcess(t, nil)
	if code := Main(nil, []string{"doctor", "--help"}, p.Process); code != 0 {
		t.Fatal(p.err.String())
	}
	golden := filepath.Join("testdata", "doctor.txt")
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
