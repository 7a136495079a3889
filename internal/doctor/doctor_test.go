package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite README.md and the files in testdata")

func check(id string, o Outcome, needs ...string) Check {
	return Check{ID: id, Name: "the " + id, Needs: needs, Run: func(context.Context) Outcome { return o }}
}

func statuses(r *Report) string {
	var all []string
	for i := range r.Checks {
		all = append(all, r.Checks[i].ID+"="+string(r.Checks[i].Status))
	}
	return strings.Join(all, " ")
}

func TestRun_Needs(t *testing.T) {
	r := Run(t.Context(), Head{}, []Check{
		check("a", Good("fine")),
		check("b", Doubt("lease", "so so"), "a"),
		check("c", Bad("private-ca", "no"), "b"),
		check("d", Good("never"), "a", "c"),
		check("e", Good("never"), "d"),
		check("f", Bad("unknown-host", "no"), "not a check of this run"),
		check("g", Good("fine")),
		check("h", Good("never"), "g"),
	}, []string{"g"})
	want := "a=ok b=warn c=fail d=skipped e=skipped f=fail g=skipped h=skipped"
	if got := statuses(r); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if r.Class != TLS || r.ExitCode != 11 || r.Status != Fail {
		t.Errorf("class %s, exit code %d, status %s: want those of the first failure", r.Class, r.ExitCode, r.Status)
	}
	if r.Summary != (Summary{OK: 1, Warn: 1, Fail: 2, Skipped: 4}) {
		t.Errorf("summary %+v", r.Summary)
	}
	var exit *ExitError
	if err := r.Err(); !errors.As(err, &exit) || exit.Code != 11 {
		t.Errorf("error %v", err)
	}
}

func TestRun_WarningsAreNoFailure(t *testing.T) {
	r := Run(t.Context(), Head{}, []Check{check("a", Doubt("lease", "so so")), check("b", Skip("no"))}, nil)
	if r.Status != Warn || r.ExitCode != 0 || r.Err() != nil {
		t.Errorf("status %s, exit code %d, error %v", r.Status, r.ExitCode, r.Err())
	}
}

func TestRun_Timeouts(t *testing.T) {
	slow := Check{ID: "slow", Timeout: 10 * time.Millisecond, Run: func(ctx context.Context) Outcome {
		<-ctx.Done()
		return Bad("too-slow", "%v", ctx.Err())
	}}
	r := Run(t.Context(), Head{}, []Check{slow, check("after", Good("fine"))}, nil)
	if got := statuses(r); got != "slow=fail after=ok" {
		t.Errorf("one deadline: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r = Run(ctx, Head{}, []Check{check("a", Good("fine"))}, nil)
	if got := statuses(r); got != "a=fail" || r.ExitCode != 10 {
		t.Errorf("no time left: %s, exit code %d", got, r.ExitCode)
	}
}

func TestScrub(t *testing.T) {
	r := Run(t.Context(), Head{}, []Check{check("a", Bad("not-routed", "it says canary-1").WithFix("use canary-2"))}, nil)
	r.Scrub("canary-1", "canary-2", "", "it")
	var out bytes.Buffer
	if err := r.Write(&out, FormatJSON); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "canary") || !strings.Contains(out.String(), "it says [secret]") {
		t.Errorf("got %s", &out)
	}
}

func sample(t *testing.T) *Report {
	r := Run(t.Context(), Head{Program: "agentk", Version: "v1.2.3", Mode: "pod", Target: "wss://kas"}, []Check{
		check("a", Good("fine,\n  in two lines")),
		check("b", Bad("private-ca", "unknown authority").WithFix("Do this.\nOr that.")),
		check("c", Doubt("version-skew", "far apart")),
		check("d", Skip("for a reason")),
	}, nil)
	r.StartedAt, r.Seconds = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 0.25
	for i := range r.Checks {
		r.Checks[i].Seconds = 0.125
	}
	return r
}

func TestWrite_Golden(t *testing.T) {
	for _, format := range []string{FormatTable, FormatJSON} {
		var out bytes.Buffer
		if err := sample(t).Write(&out, format); err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", "report."+format), out.String())
	}
	if err := sample(t).Write(&bytes.Buffer{}, "yaml"); err == nil {
		t.Error("an unknown format is accepted")
	}
}

func TestReport_ReadsBack(t *testing.T) {
	var out bytes.Buffer
	want := sample(t)
	if err := want.Write(&out, FormatJSON); err != nil {
		t.Fatal(err)
	}
	got := &Report{}
	if err := json.Unmarshal(out.Bytes(), got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	codes := map[int]Class{}
	for _, c := range Catalogue() {
		if seen[c.ID] || c.ID == "" || strings.ToLower(c.ID) != c.ID || strings.ContainsAny(c.ID, " _.") {
			t.Errorf("%q: not an anchor, or twice", c.ID)
		}
		seen[c.ID] = true
		code := exitCodes[c.Class]
		if code < 10 || codes[code] != "" && codes[code] != c.Class {
			t.Errorf("%s: class %s has exit code %d, which is that of %q too", c.ID, c.Class, code, codes[code])
		}
		codes[code] = c.Class
		if !strings.HasSuffix(c.Text, ".") || !strings.HasSuffix(c.Fix, ".") {
			t.Errorf("%s: text and fix must be sentences", c.ID)
		}
	}
	if c := causeOf("no such cause"); exitCodes[c.Class] == 0 || c.Text == "" {
		t.Errorf("a cause that is not in the catalogue: %+v", c)
	}
}

// TestReadme keeps the page for users and the catalogue the same.
func TestReadme(t *testing.T) {
	content, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	const mark = "from the catalogue. -->\n"
	above, _, found := strings.Cut(string(content), mark)
	if !found {
		t.Fatal("README.md has no mark")
	}
	var b strings.Builder
	b.WriteString(above + mark)
	for _, c := range Catalogue() {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n**Fix**: %s\n\nClass `%s`, exit code %d.\n", c.ID, c.Text, c.Fix, c.Class, exitCodes[c.Class])
		row := fmt.Sprintf("| %d | `%s` |", exitCodes[c.Class], c.Class)
		if !strings.Contains(above, row) {
			t.Errorf("the table of exit codes has no row %s", row)
		}
	}
	golden(t, "README.md", b.String())
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", path, diff)
	}
}

var named = regexp.MustCompile(`(?:(?:Bad|Doubt)\(|Cause = )"([^"]+)"`)

// TestCauses_Used has every cause of the checks in the catalogue, and every entry of the catalogue found by some check.
func TestCauses_Used(t *testing.T) {
	files, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range append(files, "doctor.go") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	known := map[string]bool{}
	for _, c := range Catalogue() {
		known[c.ID] = true
		if !strings.Contains(all.String(), `"`+c.ID+`"`) {
			t.Errorf("no check finds %s", c.ID)
		}
	}
	found := named.FindAllStringSubmatch(all.String(), -1)
	if len(found) < len(known)/2 {
		t.Fatalf("only %d causes named in the checks", len(found))
	}
	for _, m := range found {
		if !known[m[1]] {
			t.Errorf("a check names the cause %q, which the catalogue does not have", m[1])
		}
	}
}
