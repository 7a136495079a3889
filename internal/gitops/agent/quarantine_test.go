package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/test/fakeengine"
)

// A repository that ends the engine each time is held back, and the others go on.
func TestQuarantine_OthersGoOn(t *testing.T) {
	for name, content := range map[string]string{"crash": fakeengine.Crash, "memory": fakeengine.Bloat} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, func(c *Config) {
				c.Memory = 256 << 20
				// The second time takes longer than the test.
				c.timing.held = backoff.Policy{Initial: 10 * time.Millisecond, Max: time.Hour, Factor: 1e6, ResetAfter: time.Hour}
			})
			b.kas.push("good", "c1", files{"a.yaml": "1"})
			b.kas.push("bad", "c1", files{"a.yaml": content})
			b.configure(projects("good", "bad"))
			b.wait(1, "fake: held", "bad")
			line := b.wait(2, "fake: held", "bad") // let go, it did it again
			if line["commit_id"] != "c1" {
				t.Error(line)
			}
			b.wait(4, "fake: setup", "") // the first time, it was not held back
			told := false
			for _, l := range b.lines("Synchronization failed", "bad") {
				text := fmt.Sprint(l["error"])
				told = told || strings.Contains(text, "held back until") && strings.Contains(text, "commit c1 keeps ending the GitOps engine")
			}
			if !told {
				t.Error("the log does not say so:", b.lines("Synchronization failed", "bad"))
			}
			runs := len(b.lines("fake: run", "bad"))
			for i := range 3 {
				commit := fmt.Sprint("more", i)
				b.kas.push("good", commit, files{"a.yaml": commit})
				for deadline := time.Now().Add(limit); ; time.Sleep(2 * time.Millisecond) {
					lines := b.lines("Objects synchronized", "good")
					if len(lines) > 0 && lines[len(lines)-1]["commit_id"] == commit {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal("the good one does not go on")
					}
				}
			}
			if starts, again := len(b.lines("fake: setup", "")), len(b.lines("fake: run", "bad")); starts != 4 || again != runs {
				t.Errorf("%d engines, and %d runs after %d", starts, again, runs)
			}
			// Whoever repairs it need not wait.
			b.kas.push("bad", "c2", files{"a.yaml": "good"})
			if l := b.wait(1, "Objects synchronized", "bad"); l["commit_id"] != "c2" {
				t.Error(l)
			}
		})
	}
}

// Another configuration is another attempt.
func TestQuarantine_ConfigurationEndsIt(t *testing.T) {
	b := start(t, func(c *Config) {
		c.timing.held = backoff.Policy{Initial: time.Hour, Max: time.Hour, Factor: 2, ResetAfter: time.Hour}
	})
	b.kas.push("bad", "c1", files{"a.yaml": fakeengine.Crash, "x/b.yaml": "good"})
	b.configure(projects("bad"))
	b.wait(1, "fake: held", "bad")
	g := projects("bad")
	g.ManifestProjects[0].Paths = []*agentcfg.PathCF{{Path: &agentcfg.PathCF_Glob{Glob: "x/*.yaml"}}}
	b.configure(g)
	b.wait(1, "Objects synchronized", "bad")
}

func TestQuarantine_WhoIsGuilty(t *testing.T) {
	make := func(id string, rendering bool) suspect {
		id = strings.Clone(id)
		spec := &agentcfg.ManifestProjectCF{Id: &id}
		return suspect{unit: unit{id: id, spec: spec}, rendering: rendering, begin: &engine.Begin{
			Worker: id, Unit: &engine.Begin_ManifestProject{ManifestProject: &engine.ManifestProject{Spec: spec, CommitId: "c"}},
		}}
	}
	a, b, c := make("a", false), make("b", false), make("c", true)
	end := errors.New(strings.Repeat("ä", 2*maxReason))
	q := newQuarantine(heldPolicy)
	for i, step := range []struct {
		suspects []suspect
		finished string
		want     string
	}{
		{nil, "", "[]"},
		{[]suspect{a, b, c}, "", "[]"},
		{[]suspect{a, b, c}, "", "[c]"}, // it was being rendered both times
		{[]suspect{a}, "a", "[]"},
		{[]suspect{a}, "", "[]"}, // it came to an end in between
		{[]suspect{a}, "", "[a]"},
		{[]suspect{a}, "", "[a]"}, // it is known for that
		{[]suspect{a, b}, "a", "[]"},
		{[]suspect{a, b}, "a", "[]"},
		{[]suspect{a, b}, "a", "[b]"},         // it never came to an end
		{[]suspect{{unit: a.unit}}, "", "[]"}, // of whom nothing was run
	} {
		if got := fmt.Sprint(q.ended(step.suspects, end)); got != step.want {
			t.Errorf("step %d: guilty %s, want %s", i, got, step.want)
		}
		q.finished(step.finished)
	}
	if h := q.of(c.unit); h == nil || len(h.reason) > maxReason+200 || !proto.Equal(c.begin, h.begin) || h.announcement().GetHeld() != h.reason {
		t.Errorf("%+v", h)
	}
	other := c.unit
	other.spec = &agentcfg.ManifestProjectCF{Id: &c.unit.id, DefaultNamespace: "other"}
	if q.of(other) != nil || q.of(c.unit) != nil {
		t.Error("another configuration did not begin anew")
	}
	q.release("a")
	if q.of(a.unit) != nil {
		t.Error("not released")
	}
	q.retain(nil)
	if len(q.units) != 0 {
		t.Error("units that are gone are remembered")
	}
}
