package cli

import (
	"errors"
	"io"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/internal/version"
)

func TestGenerate(t *testing.T) {
	for name, tc := range map[string]struct {
		stdin string
		args  []string
		want  []string
	}{
		"defaults": {"", []string{"--agent-token=canary"}, []string{"token: canary\n", "/agentk:" + version.Version + "\n", "namespace: gitlab-agent\n", "cluster-admin"}},
		"input":    {"canary\n", []string{"--agent-token", "-"}, []string{"token: canary\n"}},
		"number":   {"", []string{"--agent-token=canary", "--agent-version=18.9.1"}, []string{"/agentk:v18.9.1\n"}},
		"all": {
			"",
			[]string{"--agent-token=canary", "--agent-version=v1", "--namespace=ns", "--name-prefix=p-", "--no-rbac"},
			[]string{"/agentk:v1\n", "namespace: ns\n", "name: p-gitlab-agent\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, nil)
			p.In = strings.NewReader(tc.stdin)
			code := Main(nil, append([]string{"generate", "--kas-address=wss://kas.example.com"}, tc.args...), p.Process)
			if code != 0 || p.err.String() != "warning: the output contains the agent token: do not commit it\n" {
				t.Errorf("code %d: %s", code, p.err.String())
			}
			for _, want := range append(tc.want, "value: wss://kas.example.com\n") {
				if !strings.Contains(p.out.String(), want) {
					t.Errorf("%q is missing", want)
				}
			}
			if name == "all" && strings.Contains(p.out.String(), "rbac.authorization") {
				t.Error("there are roles")
			}
		})
	}
}

func TestGenerate_Bad(t *testing.T) {
	address := "--kas-address=wss://kas"
	for want, args := range map[string][]string{
		"--agent-token is required":        {address},
		"--kas-address is required":        {"--agent-token=canary"},
		"there is nothing on standard":     {address, "--agent-token=-"},
		"has no scheme":                    {"--agent-token=canary", "--kas-address=kas"},
		"characters that no token has":     {address, "--agent-token=canary canary"},
		`namespace "A"`:                    {address, "--agent-token=canary", "--namespace=A"},
		`name prefix "_"`:                  {address, "--agent-token=canary", "--name-prefix=_"},
		`version "1:2" cannot be`:          {address, "--agent-token=canary", "--agent-version=1:2"},
		`unknown command "more" for`:       {address, "--agent-token=canary", "more"},
		"unknown flag: --agent-secret":     {address, "--agent-secret=canary"},
		"agent token from standard input:": {address, "--agent-token=-", "broken"},
	} {
		p := newProcess(t, nil)
		p.In = strings.NewReader("\n")
		if args[len(args)-1] == "broken" {
			p.In, args = brokenReader{}, args[:len(args)-1]
		}
		code := Main(nil, append([]string{"generate"}, args...), p.Process)
		if code != 1 || !strings.Contains(p.err.String(), want) || p.out.Len() > 0 {
			t.Errorf("%q: code %d: %s", want, code, p.err.String())
		}
		if strings.Contains(p.err.String(), "canary") {
			t.Error("a secret is shown:", p.err.String())
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) {
	return 0, errors.Join(errors.New("broken"), io.ErrUnexpectedEOF)
}

// The shells' completion scripts ask the program itself: what it says is tested, the scripts are cobra's.
func TestCompletion(t *testing.T) {
	for want, args := range map[string][]string{
		"generate\t":      {"__complete", ""},
		"console\n":       {"__complete", "--log-format", ""},
		"--name-prefix\t": {"__complete", "generate", "--name"},
		"__start_agentk":  {"completion", "bash"},
	} {
		p := newProcess(t, nil)
		if code := Main(nil, args, p.Process); code != 0 || !strings.Contains(p.out.String(), want) {
			t.Errorf("%v: code %d: %q lacks %q", args, code, p.out.String(), want)
		}
	}
}
