package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFigure_GoalIsJudgedByItsOwnNumber holds each kind of goal to the number it is about, on both sides of the goal.
func TestFigure_GoalIsJudgedByItsOwnNumber(t *testing.T) {
	direct, line := []float64{1, 2, 4}, []float64{2, 6, 8}
	for _, c := range []struct {
		name     string
		goal     goal
		text     string
		min, max float64
		ok       bool
	}{
		{"ratio met", most(ratio, 2), "ratio <= 2", 2, 3, true},
		{"ratio missed", most(ratio, 1.9), "ratio <= 1.9", 2, 3, false},
		{"at least, met", least(ratio, 2), "ratio >= 2", 2, 3, true},
		{"at least, missed", least(ratio, 2.1), "ratio >= 2.1", 2, 3, false},
		{"added met", most(added, 4), "line - direct <= 4 ms", 1, 4, true},
		{"added missed", most(added, 3.9), "line - direct <= 3.9 ms", 1, 4, false},
		{"plain met", most(plain, 6), "<= 6 ms", 2, 8, true},
		{"plain missed", most(plain, 5.9), "<= 5.9 ms", 2, 8, false},
		{"none", goal{}, "", 2, 3, true},
	} {
		got := figure("f", "ms", direct, line, c.goal)
		want := row{Name: "f", Unit: "ms", Direct: 2, Line: 6, Ratio: 2, Min: c.min, Max: c.max, Goal: c.text, OK: c.ok}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if r := figure("f", "s", []float64{0}, []float64{1}, goal{}); r.Ratio != 0 || !r.OK {
		t.Errorf("nothing at all on the direct side: %+v", r)
	}
	if r := figure("f", "ms", nil, nil, goal{}); r.OK {
		t.Error("a figure without samples is all right")
	}
}

func TestEncode(t *testing.T) {
	var out bytes.Buffer
	err := encode(&out, []row{{Name: "a", Unit: "s", Goal: "<= 1 s", OK: true}, {Name: "b", Quick: true, err: errors.New("broken")}})
	if err != nil {
		t.Fatal(err)
	}
	want := `[
  {"name": "a", "unit": "s", "direct": 0, "line": 0, "ratio": 0, "min": 0, "max": 0, "goal": "<= 1 s", "ok": true},
  {"name": "b", "unit": "", "direct": 0, "line": 0, "ratio": 0, "min": 0, "max": 0, "goal": "", "ok": false, "quick": true}
]`
	// Only the white space differs.
	clean := strings.NewReplacer("\n", "", "  ", "", ", ", ",").Replace
	if diff := cmp.Diff(clean(want), clean(out.String())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestChoose(t *testing.T) {
	all := []group{{name: "one", rows: []string{"get_a", "cpu"}}, {name: "two", rows: []string{"list_a"}}, {name: "three", rows: []string{"echo"}}}
	for words, want := range map[string][]string{
		"": {"one", "two", "three"}, "get_": {"one"}, "list,cpu": {"one", "two"}, "_a": {"one", "two"}, "get_,": {"one"},
	} {
		chosen, err := choose(all, words)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, g := range chosen {
			names = append(names, g.name)
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("ROWS=%q (-want +got):\n%s", words, diff)
		}
	}
	for _, words := range []string{"nothing", ","} {
		if _, err := choose(all, words); err == nil {
			t.Errorf("ROWS=%q chooses something", words)
		}
	}
}

// TestGroups_NamesAreUnique keeps latest.json an array with one entry per figure.
func TestGroups_NamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups {
		if g.name == "" || len(g.rows) == 0 || g.run == nil {
			t.Errorf("group %q is not complete", g.name)
		}
		for _, name := range g.rows {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
}

// TestReadme_TellsOfEveryFigure compares the table of the README, whose names may end in a star, with the groups.
func TestReadme_TellsOfEveryFigure(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{} // whether there is such a figure
	name := regexp.MustCompile("`([a-z0-9_*]+)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, match := range name.FindAllStringSubmatch(cells[1], -1) {
			told[match[1]] = false
		}
	}
	for _, g := range groups {
		for _, figure := range g.rows {
			found := false
			for pattern := range told {
				if matched, err := path.Match(pattern, figure); err != nil {
					t.Fatal(err)
				} else if matched {
					told[pattern], found = true, true
				}
			}
			if !found {
				t.Errorf("the table does not tell of %s", figure)
			}
		}
	}
	for pattern, exists := range told {
		if !exists {
			t.Errorf("the table tells of %s, which no group measures", pattern)
		}
	}
}

func TestPerform_GoesOnAfterAFailure(t *testing.T) {
	broken := errors.New("broken")
	s := &stage{effort: effort{quick: true}, progress: func(text string) { t.Log(text) }}
	good := row{Name: "good", OK: true, Quick: true}
	rows, failed := s.perform(t.Context(), []group{
		{name: "bad", rows: []string{"good", "missing"}, run: failing(good, broken)},
		{name: "silent", rows: []string{"said", "unsaid"}, run: failing(row{Name: "said", OK: true}, nil)},
		{name: "talkative", run: failing(row{Name: "more", OK: true}, nil)},
		{name: "fine", rows: []string{"other"}, run: failing(row{Name: "other", OK: true}, nil)},
	})
	if len(failed) != 3 || !errors.Is(failed[0], broken) {
		t.Errorf("failures: %v", failed)
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
		if r.OK == slices.Contains([]string{"missing", "unsaid"}, r.Name) || !r.Quick {
			t.Errorf("row %+v", r)
		}
	}
	if diff := cmp.Diff([]string{"good", "missing", "said", "unsaid", "more", "other"}, names); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func failing(r row, err error) func(context.Context, *stage) ([]row, error) {
	return func(context.Context, *stage) ([]row, error) { return []row{r}, err }
}
