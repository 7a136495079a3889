package show

import (
	"bytes"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"gitlab.com/agentk/agentk/internal/version"
)

func run(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	cmd := Command("kas")
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	cmd.SilenceUsage = true
	err := cmd.Execute()
	return out.Bytes(), err
}

func TestCommand(t *testing.T) {
	want := build{
		Name: "kas", Version: version.Version, Commit: version.Commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	for format, decode := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(b []byte, v any) error { return yaml.UnmarshalStrict(b, v) },
	} {
		out, err := run(t, "-o", format)
		var got build
		if err = errors.Join(err, decode(out, &got)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(format, diff)
		}
		if format == "yaml" && bytes.HasPrefix(out, []byte("{")) {
			t.Error("yaml is JSON")
		}
	}
	out, err := run(t)
	if text := "kas " + version.Version + ", commit " + version.Commit + ", " + runtime.Version(); err != nil || !strings.HasPrefix(string(out), text) {
		t.Error(string(out), err)
	}
}

func TestCommand_BadArguments(t *testing.T) {
	for want, args := range map[string][]string{`--output "xml": must be`: {"-o", "xml"}, "unknown command": {"more"}} {
		if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Error(args, err)
		}
	}
}
