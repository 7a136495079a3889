package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

// handWritten is the configuration of Deployments that people copy from each other.
const handWritten = `agent:
  token: from-the-file
  kas_address: wss://kas.of.the.file
ci_access:
  projects:
    - id: acme/shop
`

// folder makes a folder with config.yaml, as a mounted ConfigMap is one.
func folder(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A Deployment written by hand: --config, --log-format, AGENT_SECRET_KEY, and nothing that says where it runs but the pod itself.
func TestConfigFile_HandWrittenDeployment(t *testing.T) {
	p := newProcess(t, map[string]string{"AGENT_SECRET_KEY": "from-the-secret\n"})
	if err := os.WriteFile(p.NamespaceFile, []byte("ns"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := started(t, p, "--config="+folder(t, handWritten), "--log-format=json", "--kubeconfig", kubeconfig(t))
	if got := cfg.Kas.Token(); got != "from-the-secret" {
		t.Error(got)
	}
	if cfg.Kas.Address != "wss://kas.of.the.file" || cfg.Pod.Namespace != "ns" || cfg.Pod.Name != "host" {
		t.Error(cfg.Kas.Address, cfg.Pod)
	}
	if len(p.env) > 0 {
		t.Error("the token stays in the environment")
	}
	log := p.err.String()
	if strings.Count(log, `"sections":["ci_access"]`) != 1 || strings.Count(log, "agent.token of the file of --config is not used") != 1 ||
		strings.Contains(log, "from-the") || strings.Contains(log, "acme") {
		t.Error(log)
	}
}

func TestConfigFile_WhatCounts(t *testing.T) {
	for name, tc := range map[string]struct {
		content        string
		env            map[string]string
		args           []string
		token, address string
	}{
		"token and address":    {handWritten, nil, nil, "from-the-file", "wss://kas.of.the.file"},
		"flag over file":       {handWritten, nil, []string{"--kas-address=wss://flag"}, "from-the-file", "wss://flag"},
		"token file over file": {handWritten, nil, []string{"--token-file=" + write(t, "t")}, "t", "wss://kas.of.the.file"},
		"AGENTK_TOKEN":         {handWritten, map[string]string{"AGENTK_TOKEN": "e"}, nil, "e", "wss://kas.of.the.file"},
		"address at the top":   {"kas_address: grpc://top\nagent: {token: t}\n", nil, nil, "t", "grpc://top"},
		"the same twice":       {"kas_address: grpc://top\nagent: {token: t, kas_address: grpc://top}\n", nil, nil, "t", "grpc://top"},
		"nothing in it":        {"", map[string]string{"AGENTK_TOKEN": "e"}, []string{"--kas-address=wss://flag"}, "e", "wss://flag"},
		"empty sections":       {"agent:\nci_access:\n", map[string]string{"AGENTK_TOKEN": "e"}, []string{"--kas-address=wss://flag"}, "e", "wss://flag"},
		"variable": {
			"agent: {token: '${AGENT_SECRET_KEY}', kas_address: wss://k}",
			map[string]string{"AGENT_SECRET_KEY": "e"},
			nil, "e", "wss://k",
		},
	} {
		t.Run(name, func(t *testing.T) {
			// The path of a file is as good as that of its folder.
			p := newProcess(t, tc.env)
			args := append([]string{"--config=" + filepath.Join(folder(t, tc.content), "config.yaml"), "--kubeconfig", kubeconfig(t)}, tc.args...)
			cfg := started(t, p, args...)
			if cfg.Kas.Token() != tc.token || cfg.Kas.Address != tc.address {
				t.Errorf("token %q, address %q", cfg.Kas.Token(), cfg.Kas.Address)
			}
			if len(p.env) > 0 {
				t.Error("the token stays in the environment")
			}
		})
	}
}

func TestConfigFile_Bad(t *testing.T) {
	address := "--kas-address=wss://kas"
	for name, tc := range map[string]struct {
		content string
		env     map[string]string
		args    []string
		want    string
	}{
		"unknown key":          {"agents: {token: canary}", nil, nil, `--config: PATH: line 1: unknown key "agents": known are agent, kas_address, ci_access`},
		"unknown key of agent": {"agent:\n  tokens: canary", nil, nil, `line 2: unknown key "agent.tokens": known are agent.token and`},
		"twice":                {"agent:\n  token: canary\n  token: canary", nil, nil, `line 3: key "token" comes twice`},
		"section twice":        {"agent: {}\nagent: {}", nil, nil, `line 2: key "agent" comes twice`},
		"token is a number":    {"agent: {token: 12}", nil, nil, "line 1: agent.token must be a text, in quotes"},
		"token is a list":      {"agent: {token: [canary]}", nil, nil, "line 1: agent.token must be a text"},
		"token is empty":       {"agent: {token: ''}", nil, nil, "line 1: agent.token must be a text"},
		"another variable":     {"agent: {token: $canary}", nil, nil, "line 1: agent.token names a variable"},
		"two addresses":        {"kas_address: wss://a\nagent: {kas_address: wss://b}", nil, nil, "kas_address and agent.kas_address differ"},
		"no mapping":           {"canary", nil, nil, "line 1: the file must be a mapping"},
		"agent is no mapping":  {"agent: canary", nil, nil, "line 1: agent must be a mapping"},
		"no YAML":              {"agent: {", nil, nil, "--config: PATH: yaml: line 1"},
		"too large":            {"#" + strings.Repeat("x", maxConfigFile), nil, nil, "more than 1048576 bytes"},
		"no address":           {"agent: {token: canary}", nil, nil, "--kas-address is required: the file of --config has no kas_address"},
		"no token":             {"ci_access: {}", nil, []string{address}, "--token-file or the environment variable AGENTK_TOKEN is required"},
		"variable is not set": {
			"agent: {token: $AGENT_SECRET_KEY}", nil, []string{address}, "--token-file or the environment variable AGENTK_TOKEN is required",
		},
		"two variables": {
			"",
			map[string]string{"AGENTK_TOKEN": "canary", "AGENT_SECRET_KEY": "canary"},
			[]string{address},
			"the environment variables AGENTK_TOKEN and AGENT_SECRET_KEY: give one of them",
		},
		"file and variable": {
			"",
			map[string]string{"AGENT_SECRET_KEY": "canary"},
			[]string{address, "--token-file=" + write(t, "canary")},
			"--token-file and the environment variable AGENT_SECRET_KEY: give one of them",
		},
		"empty variable": {"", map[string]string{"AGENT_SECRET_KEY": "\n"}, []string{address}, "environment variable AGENT_SECRET_KEY holds no token"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, tc.content)
			failed(t, tc.env, append([]string{"--config=" + dir}, tc.args...), strings.Replace(tc.want, "PATH", filepath.Join(dir, "config.yaml"), 1))
		})
	}
}

func TestConfigFile_Unreadable(t *testing.T) {
	failed(t, nil, []string{"--config=/nonexistent"}, "--config: stat /nonexistent: no such file")
	empty := t.TempDir()
	failed(t, nil, []string{"--config=" + empty}, "--config: open "+empty+"/config.yaml: no such file")
}

// failed runs a command line that must be refused for a reason, without showing a secret.
func failed(t *testing.T, env map[string]string, args []string, want string) {
	t.Helper()
	p := newProcess(t, env)
	run := func(context.Context, agentk.Config, *telemetry.Log) error { t.Error("started"); return nil }
	code := Main(run, args, p.Process)
	if code != 1 || !strings.Contains(p.err.String(), want) {
		t.Errorf("code %d, want %q: %s", code, want, p.err.String())
	}
	if strings.Contains(p.err.String(), "canary") {
		t.Error("a secret is shown:", p.err.String())
	}
}
