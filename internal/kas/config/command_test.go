package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script writes a program.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "render more")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return path
}

// withCommand writes a file that names a command line.
func withCommand(t *testing.T, line string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kas.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%sconfig: {command: %q}\n", minimal, line), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad_CommandIsLaidOverTheFile(t *testing.T) {
	program := script(t, `printf 'redis: {server: {address: "%s"}, password_file: /p}\ngitlab: {external_url: "%s"}\nnew: 1\nconfig: {command: /nowhere}\n' "$1" "$2"`)
	c, err := Load(t.Context(), withCommand(t, "'"+program+`' redis:6379 "https://two words"`))
	if err == nil || !strings.Contains(err.Error(), "gitlab.external_url: must be an absolute URI") || strings.Contains(err.Error(), "two words") {
		t.Errorf("what the command prints is checked like the file: %v, %v", c, err)
	}
	c, err = Load(t.Context(), withCommand(t, "'"+program+`' redis:6379 https://ext.example.com`))
	if err != nil {
		t.Fatal(err)
	}
	f := c.File
	if f.Redis.GetServer().GetAddress() != "redis:6379" || f.Redis.PasswordFile != "/p" || f.Gitlab.GetExternalUrl() != "https://ext.example.com" || f.Gitlab.Address != "https://gitlab.example.com" {
		t.Errorf("got %v", f)
	}
	if diff := cmp.Diff([]string{"new: unknown key"}, c.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestLoad_CommandFails(t *testing.T) {
	for name, tt := range map[string]struct{ line, want string }{
		"exit code":    {script(t, "echo canary\nprintf 'line one\\nline\\033 two' >&2\nexit 3"), "config.command: %s ended with exit status 3; it said: line one line two"},
		"silent":       {script(t, "exit 1"), "config.command: %s ended with exit status 1"},
		"signal":       {script(t, "kill -9 $$"), "config.command: %s ended with signal: killed"},
		"long error":   {script(t, "head -c 100000 /dev/zero | tr '\\0' e >&2; exit 1"), "config.command: %s ended with exit status 1; it said: " + strings.Repeat("e", maxCommandError) + "..."},
		"huge output":  {script(t, "exec head -c 100000000 /dev/zero"), "config.command: %s printed more than 4194304 bytes"},
		"not YAML":     {script(t, "echo 'canary: ['"), "config.command: its output: line 1: did not find expected node content"},
		"wrong type":   {script(t, "echo; echo 'agent: canary'"), "config.command: its output: agent (line 2): must be a mapping of keys to values, not a string"},
		"no program":   {"/nowhere/render-more", "config.command: run %s: no such file or directory"},
		"blank":        {" ", "config.command: it names no program"},
		"empty name":   {"''", "config.command: it names no program"},
		"open quote":   {"'/bin/true", "config.command: a quote is not closed"},
		"arg is quiet": {"/bin/false canary-secret", "config.command: %s ended with exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			program := tt.line
			if strings.HasSuffix(program, "render more") {
				tt.line = "'" + tt.line + "'"
			}
			program, _, _ = strings.Cut(program, " canary")
			path := withCommand(t, tt.line)
			want := "configuration file " + path + ": " + strings.ReplaceAll(tt.want, "%s", program)
			_, err := Load(t.Context(), path)
			if err == nil || err.Error() != want {
				t.Errorf("got %v\nwant %s", err, want)
			}
		})
	}
}

func TestLoad_CommandIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// The pipes stay open in a process that the script leaves behind.
	_, err := Load(ctx, withCommand(t, "'"+script(t, "sleep 5 &\nsleep 5")+"'"))
	if !errors.Is(err, context.DeadlineExceeded) && (err == nil || !strings.Contains(err.Error(), "did not end within")) {
		t.Errorf("got %v", err)
	}
}

func TestLoad_MistakesOfTheFileComeFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kas.yaml")
	marker := filepath.Join(t.TempDir(), "ran")
	if err := os.WriteFile(path, fmt.Appendf(nil, "agent: 1\nconfig: {command: touch %s}\n", marker), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "agent (line 1): must be a mapping") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("the command of a broken file was run")
	}
}

func TestCheckEnvironment(t *testing.T) {
	plain, secure := parse(t, minimal), parse(t, strings.ReplaceAll(minimal, "private_api_authentication_secret}", "s, certificate_file: /c, key_file: /k}"))
	socket := parse(t, strings.ReplaceAll(minimal, "private_api_authentication_secret}", "s, network: unix, address: /p, certificate_file: /c, key_file: /k}"))
	const onSocket = "environment variable OWN_PRIVATE_API_URL must start with unixs, since private_api.listen has a certificate"
	const host = "environment variable OWN_PRIVATE_API_HOST must name this kas, since private_api.listen has a certificate"
	for _, tt := range []struct {
		name string
		c    *Config
		env  map[string]string
		want string
	}{
		{"no TLS", plain, nil, ""},
		{"TLS without a name", secure, nil, host},
		{"TLS", secure, map[string]string{EnvOwnHost: "kas.example.com"}, ""},
		{"TLS on a socket", socket, map[string]string{EnvOwnHost: "kas"}, ""},
		{"TLS, said to be on a socket", secure, map[string]string{EnvOwnHost: "kas", envOwnURL: "unix:///p"}, onSocket},
		{"TLS, said to be TLS on a socket", secure, map[string]string{EnvOwnHost: "kas", envOwnURL: "unixs:///p"}, ""},
		{"TLS on a socket behind a URL", socket, map[string]string{EnvOwnHost: "kas", envOwnURL: "grpcs://a:1"}, ""},
		{"TLS on a socket behind a port", socket, map[string]string{EnvOwnHost: "kas", envOwnCIDR: "10.0.0.0/8", envOwnPort: "1"}, ""},
		{"socket without TLS", plain, map[string]string{envOwnURL: "unix:///p"}, ""},
		{"two sources", plain, map[string]string{envOwnURL: "grpc://a", envOwnCIDR: "10.0.0.0/8"}, "environment variables OWN_PRIVATE_API_URL and OWN_PRIVATE_API_CIDR must not both be set"},
		{"no URL", plain, map[string]string{envOwnURL: "10.0.0.1"}, "environment variable OWN_PRIVATE_API_URL must be a URL such as grpc://10.0.0.1:8155"},
		{"scheme", plain, map[string]string{envOwnScheme: "https"}, "environment variable OWN_PRIVATE_API_SCHEME must be grpc or grpcs"},
		{"port", plain, map[string]string{envOwnPort: "65536"}, "environment variable OWN_PRIVATE_API_PORT must be a port, 1 to 65535"},
		{"standalone", parse(t, "standalone: {repositories_dir: /r}"), map[string]string{envOwnURL: "x"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := tt.c.CheckEnvironment(func(name string) string { return tt.env[name] }); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
