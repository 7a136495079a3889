// Package systemd tests the unit of kas with systemd's own tools.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/internal/kas/cli"
	"gitlab.com/agentk/agentk/test/tool"
)

const unit = "kas.service"

func read(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// analyze runs systemd-analyze on a unit of that content.
func analyze(t *testing.T, content string, args ...string) (string, error) {
	t.Helper()
	program := tool.Debian(t, "systemd", "systemd-analyze")
	path := filepath.Join(t.TempDir(), unit)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, append(args, path)...).CombinedOutput()
	return string(out), err
}

// The unit names a program that is not here: any other will do.
func here(content string) string {
	return strings.Replace(content, "ExecStart=/usr/bin/kas ", "ExecStart=/bin/true ", 1)
}

func TestUnit_Verify(t *testing.T) {
	out, err := analyze(t, here(read(t)), "verify", "--man=no")
	if err != nil || out != "" {
		t.Errorf("%v: %s", err, out)
	}
	for name, broken := range map[string]string{
		"option": strings.Replace(here(read(t)), "ProtectHome=", "ProtectHouse=", 1), "program": read(t),
	} {
		if out, err := analyze(t, broken, "verify", "--man=no"); err == nil && out == "" {
			t.Errorf("a wrong %s is not found: the check could not fail", name)
		}
	}
}

// The exposure level is systemd's own sum over all it can take away from a process, 0 to 10.
func TestUnit_Exposure(t *testing.T) {
	out, err := analyze(t, read(t), "security", "--offline=true", "--threshold=15")
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := analyze(t, strings.Replace(read(t), "DynamicUser=yes", "User=root", 1), "security", "--offline=true", "--threshold=15"); err == nil {
		t.Error("as root it is as good: the check could not fail")
	}
}

func TestUnit_CommandLine(t *testing.T) {
	_, rest, found := strings.Cut(read(t), "\nExecStart=/usr/bin/kas ")
	line, _, _ := strings.Cut(rest, "\n")
	if !found {
		t.Fatal("no command line")
	}
	root := cli.New(nil)
	if err := root.ParseFlags(strings.Fields(line)); err != nil || root.Flag("configuration-file").Value.String() != "/etc/kas/kas.yaml" {
		t.Errorf("%q: %v", line, err)
	}
}
