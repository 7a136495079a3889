package agent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/test/fakeengine"
)

// The cluster follows: each commit is run once, whole.
func TestFollows(t *testing.T) {
	b := start(t)
	b.kas.push("a", "c1", files{"a.yaml": "some text", "b.txt": "no", "dir/b.json": "", ".git/x.yaml": "no"})
	b.configure(projects("a"))
	b.ran(1, "a", "c1", files{"0:a.yaml": "some text", "0:dir/b.json": ""})
	if l := b.wait(1, "Objects synchronized", "a"); l["commit_id"] != "c1" || l["applied"] != int32(2) {
		t.Error(l)
	}
	b.kas.push("a", "c2", files{"a.yaml": "other"})
	b.ran(2, "a", "c2", files{"0:a.yaml": "other"})
	b.wait(2, "Objects synchronized", "a")
	if l := b.wait(2, "Synchronizing objects", "a"); l["commit_id"] != "c2" {
		t.Error(l)
	}
	for i, want := range []string{"", "c1"} {
		if got := b.kas.requests("a")[i].CommitId; got != want {
			t.Errorf("request %d names commit %q", i, got)
		}
	}
	b.stop()
	metrics := b.scrape()
	for _, want := range []string{
		`agentk_syncs_total{result="succeeded"} 2`, "agentk_sync_duration_seconds_count 2",
		"agentk_gitops_engine_starts_total 1", "agentk_gitops_engine_resident_bytes 0",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in %s", want, metrics)
		}
	}
}

// scrape returns the metrics as text.
func (b *bed) scrape() string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(b.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w.Body.String()
}

// A newer commit cancels a run that goes on.
func TestNewerCommitCancels(t *testing.T) {
	b := start(t)
	b.kas.push("a", "c1", files{"a.yaml": fakeengine.Linger})
	b.configure(projects("a"))
	b.wait(1, "fake: run", "a")
	b.kas.push("a", "c2", files{"a.yaml": "x"})
	if l := b.wait(1, "Synchronization was canceled", "a"); l["commit_id"] != "c1" {
		t.Error(l)
	}
	if l := b.wait(1, "Objects synchronized", "a"); l["commit_id"] != "c2" {
		t.Error(l)
	}
}

// What the engine refuses is a failure with its words.
func TestFailedRun(t *testing.T) {
	b := start(t)
	b.kas.push("a", "c1", files{"a.yaml": fakeengine.Fail})
	b.configure(projects("a"))
	if l := b.wait(1, "Synchronization failed", "a"); l["commit_id"] != "c1" || l["error"] != "a.yaml:1: something is wrong" {
		t.Error(l)
	}
}

// A batch that ends early runs nothing, and comes again as a whole.
func TestCutBatch_NothingRuns(t *testing.T) {
	b := start(t)
	b.kas.push("a", "c1", files{"a.yaml": "1", "b.yaml": "2"})
	b.kas.cut = "b.yaml"
	b.configure(projects("a"))
	b.ran(1, "a", "c1", files{"0:a.yaml": "1", "0:b.yaml": "2"})
	if l := b.wait(1, "Synchronization failed", "a"); !strings.Contains(l["error"].(string), "the wire is cut") {
		t.Error(l)
	}
	if got := len(b.lines("fake: run", "a")); got != 1 {
		t.Error("runs:", got)
	}
}

// Nothing is pruned because git could not be read: not when a project is gone, not when kas refuses it.
func TestUnreadable_NothingRuns(t *testing.T) {
	b := start(t)
	b.kas.push("a", "c1", files{"a.yaml": "1"})
	b.configure(projects("a"))
	b.ran(1, "a", "c1", files{"0:a.yaml": "1"})
	b.kas.drop("a")
	b.wait(3, "Synchronization failed", "a")
	if notice := <-b.notices; !strings.HasPrefix(notice, "SynchronizationFailed: a: read project a:") || !strings.Contains(notice, "not found") {
		t.Error(notice)
	}
	b.kas.fail("a", status.Error(codes.Unavailable, "Gitaly is away"))
	b.wait(5, "Synchronization failed", "a")
	if got := len(b.lines("fake: run", "a")); got != 1 {
		t.Error("runs:", got)
	}
	b.kas.fail("a", nil)
	b.kas.push("a", "c2", files{"a.yaml": "2"})
	b.ran(2, "a", "c2", files{"0:a.yaml": "2"})
}

// Only workers whose configuration has changed are stopped; without any there is no engine.
func TestConfigurationChanges(t *testing.T) {
	b := start(t)
	for _, p := range []string{"a", "b", "c", "group/config"} {
		b.kas.push(p, p+"1", files{"a.yaml": p, "x/b.yml": "x"})
	}
	b.configure(projects("a", "b"))
	b.wait(1, "Objects synchronized", "a")
	b.wait(1, "Objects synchronized", "b")
	pid := b.wait(1, "fake: setup", "")["pid"]

	g := projects("a", "b", "c")
	g.ManifestProjects[1].Paths = []*agentcfg.PathCF{{Path: &agentcfg.PathCF_Glob{Glob: "x/*.yml"}}}
	b.configure(g)
	b.ran(2, "b", "b1", files{"0:x/b.yml": "x"})
	b.wait(1, "Objects synchronized", "c")
	b.configure(projects("a"))
	b.wait(1, "fake: forget", "c")
	b.wait(2, "fake: forget", "b")
	if runs, forgotten := len(b.lines("fake: run", "a")), len(b.lines("fake: forget", "a")); runs != 1 || forgotten != 0 {
		t.Error("the worker that did not change was disturbed:", runs, forgotten)
	}

	b.configure(nil)
	gone(t, pid.(string))
	// Unset, the project is that of the configuration, and another engine is started.
	b.configure(&agentcfg.GitopsCF{ManifestProjects: []*agentcfg.ManifestProjectCF{{}}})
	b.ran(1, "group/config", "group/config1", files{"0:a.yaml": "group/config", "0:x/b.yml": "x"})
	if b.wait(2, "fake: setup", "")["pid"] == pid {
		t.Error("the same engine")
	}
}

// Whatever ends the engine is an error of all workers; the next engine gets everything again.
func TestEngineEnds_AllIsAskedForAgain(t *testing.T) {
	for name, tc := range map[string]struct{ content, want string }{
		"crash":   {fakeengine.Crash, "panic: the fake engine crashes, and knows the secret [secret]"},
		"garbage": {fakeengine.Garbage, "cannot be understood"},
		"memory":  {fakeengine.Bloat, "memory limit of 256Mi"},
		"hang":    {fakeengine.Hang, "it has said nothing for 3s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, func(c *Config) {
				c.Memory = 256 << 20
				if name == "hang" {
					c.timing.child.silence = 3 * time.Second
				}
			})
			b.kas.push("a", "c1", files{"a.yaml": "x"})
			b.kas.push("b", "c1", files{"b.yaml": "x"})
			b.configure(projects("a", "b"))
			b.wait(1, "Objects synchronized", "a")
			b.wait(1, "Objects synchronized", "b")
			pid := b.wait(1, "fake: setup", "")["pid"].(string)
			b.kas.push("b", "c2", files{"b.yaml": tc.content})
			if l := b.wait(1, "The GitOps engine is started again", ""); !strings.Contains(l["error"].(string), tc.want) {
				t.Error(l)
			}
			for _, w := range []string{"a", "b"} {
				if l := b.wait(1, "Synchronization failed", w); l["error"] != errEngine.Error() {
					t.Error(l)
				}
			}
			gone(t, pid)
			b.kas.push("b", "c3", files{"b.yaml": "good"})
			b.wait(2, "Objects synchronized", "a")
			b.wait(2, "Objects synchronized", "b")
			again := false
			for _, r := range b.kas.requests("a")[1:] {
				again = again || r.CommitId == ""
			}
			if !again {
				t.Error("the files were not asked for again")
			}
			if notice := <-b.notices; !strings.Contains(notice, tc.want) || strings.Contains(notice, "canary") {
				t.Error(notice)
			}
		})
	}
}

func TestEngineCannotStart(t *testing.T) {
	b := start(t, func(c *Config) { c.Engine = "/nonexistent/agentk-gitops" })
	b.configure(projects("a"))
	if l := b.wait(2, "The GitOps engine is started again", ""); !strings.Contains(l["error"].(string), "no such file") {
		t.Error(l)
	}
	b = start(t, func(c *Config) { c.Access = func() (child.Access, error) { return child.Access{}, errEngine } })
	b.configure(projects("a"))
	b.wait(2, "The GitOps engine is started again", "")
}

// Files of kustomizations come with their directories, once, and what else the engine needs is fetched at the same commit.
func TestKustomizeNeeds(t *testing.T) {
	b := start(t)
	tree := files{
		"overlay/kustomization.yaml": "need:base", "overlay/patch.yaml": "p", "overlay/notes.txt": "n",
		"base/deployment.yaml": "d", "other.yaml": "o",
	}
	b.kas.push("a", "c1", tree)
	g := projects("a")
	g.ManifestProjects[0].Paths = []*agentcfg.PathCF{
		{Path: &agentcfg.PathCF_Kustomize{Kustomize: "/overlay/"}}, {Path: &agentcfg.PathCF_Glob{Glob: "**/*.yaml"}},
	}
	b.configure(g)
	b.ran(1, "a", "c1", files{
		"0:overlay/kustomization.yaml": "need:base", "0:overlay/patch.yaml": "p", "0:overlay/notes.txt": "n",
		"0:base/deployment.yaml": "d", "0:other.yaml": "o",
	})
	want := files{
		"0:overlay/kustomization.yaml": "need:base", "0:overlay/patch.yaml": "p", "0:overlay/notes.txt": "n",
		"0:base/deployment.yaml": "d", "0:other.yaml": "o",
	}
	b.ran(2, "a", "c1", want)
	if l := b.wait(2, "fake: run", "a"); l["fetched"] != "base" {
		t.Error(l)
	}
	b.wait(1, "Objects synchronized", "a")

	// The next commit brings what the last one needed at once; one that needs it no more and has no such directory is no failure.
	b.kas.push("a", "c2", files{"overlay/kustomization.yaml": "need:base", "base/x.txt": "x"})
	b.ran(3, "a", "c2", files{"0:overlay/kustomization.yaml": "need:base", "0:base/x.txt": "x"})
	b.kas.push("a", "c3", files{"overlay/kustomization.yaml": "k"})
	b.ran(4, "a", "c3", files{"0:overlay/kustomization.yaml": "k"})
	b.wait(3, "Objects synchronized", "a")
	if l := b.lines("Synchronization failed", ""); len(l) != 0 {
		t.Error(l)
	}
	for _, r := range b.kas.requests("a") {
		if commit := r.Ref.GetCommit(); commit != "" && commit != "c1" && commit != "c2" && commit != "c3" {
			t.Error(r)
		}
	}
}

// A kustomization that always wants more ends in an error.
func TestKustomizeNeeds_Bounded(t *testing.T) {
	b := start(t)
	tree := files{"k/kustomization.yaml": "need:d0"}
	for i := range 20 {
		d := string(rune('0' + i))
		tree["d"+d+"/kustomization.yaml"] = "need:d" + string(rune('1'+i))
	}
	b.kas.push("a", "c1", tree)
	b.kas.push("b", "c1", files{"k/kustomization.yaml": "need:../../etc"})
	b.kas.push("c", "c1", files{"k/kustomization.yaml": "need:missing"})
	g := projects("a", "b", "c")
	for _, p := range g.ManifestProjects {
		p.Paths = []*agentcfg.PathCF{{Path: &agentcfg.PathCF_Kustomize{Kustomize: "k"}}}
	}
	b.configure(g)
	for worker, want := range map[string]string{"a": "more than 10", "b": "../../etc", "c": "no such directory"} {
		if l := b.wait(1, "Synchronization failed", worker); !strings.Contains(l["error"].(string), want) {
			t.Error(l)
		}
	}
}

// A chart has several sources; a change of any makes a run with all.
func TestChart(t *testing.T) {
	values := newValuesServer(t)
	b := start(t, values.allow)
	b.kas.push("charts", "c1", files{"x/Chart.yaml": "chart", "x/templates/a.yaml": "a", "y.yaml": "no"})
	b.kas.push("group/config", "v1", files{"values/prod.yaml": "file values"})
	values.set(200, "url values")
	url := &agentcfg.ChartValuesUrlCF{Url: values.url("/v/prod.yaml"), PollPeriod: durationpb.New(time.Second)}
	b.configure(&agentcfg.GitopsCF{Charts: []*agentcfg.ChartCF{{
		ReleaseName: "web",
		Source: &agentcfg.ChartSourceCF{Source: &agentcfg.ChartSourceCF_Project{Project: &agentcfg.ChartProjectSourceCF{
			Id: "charts", Path: "x", Ref: &agentcfg.GitRefCF{Ref: &agentcfg.GitRefCF_Branch{Branch: "main"}},
		}}},
		Values: []*agentcfg.ChartValuesCF{
			{From: &agentcfg.ChartValuesCF_Inline{Inline: structpb.NewStringValue("a: b")}},
			{From: &agentcfg.ChartValuesCF_File{File: &agentcfg.ChartValuesFileCF{File: "values/prod.yaml"}}},
			{From: &agentcfg.ChartValuesCF_Url{Url: url}},
		},
	}}})
	const worker = "chart:default/web"
	want := files{"0:x/Chart.yaml": "chart", "0:x/templates/a.yaml": "a", "2:values/prod.yaml": "file values", "3:values.yaml": "url values"}
	b.ran(1, worker, "c1", want)
	b.wait(1, "Objects synchronized", worker)

	b.kas.push("group/config", "v2", files{"values/prod.yaml": "new file values"})
	want["2:values/prod.yaml"] = "new file values"
	b.ran(2, worker, "c1", want)
	values.set(200, "new url values")
	want["3:values.yaml"] = "new url values"
	b.ran(3, worker, "c1", want)

	// One source that cannot be read holds up its own news only, and the others run with what it had.
	values.set(500, "")
	if l := b.wait(1, "Synchronization failed", worker); !strings.Contains(l["error"].(string), "/v/prod.yaml: the server answered 500") {
		t.Error(l)
	}
	b.kas.push("charts", "c2", files{"x/Chart.yaml": "chart 2"})
	b.ran(4, worker, "c2", files{"0:x/Chart.yaml": "chart 2", "2:values/prod.yaml": "new file values", "3:values.yaml": "new url values"})
	b.kas.push("group/config", "v3", files{"other": "x"})
	b.wait(2, "Synchronization failed", worker)
	b.kas.push("charts", "c3", files{"x/Chart.yaml": "chart 3"})
	b.ran(5, worker, "c3", files{"0:x/Chart.yaml": "chart 3", "2:values/prod.yaml": "new file values", "3:values.yaml": "new url values"})
	// News that cannot be read to the end count as little.
	b.kas.push("group/config", "v4", files{"values/prod.yaml": broken})
	before := len(b.lines("Synchronization failed", worker))
	b.wait(before+3, "Synchronization failed", worker)
	if got := len(b.lines("fake: run", worker)); got != 5 {
		t.Error("runs:", got)
	}
	b.kas.push("charts", "c4", files{"x/Chart.yaml": "chart 4"})
	b.ran(6, worker, "c4", files{"0:x/Chart.yaml": "chart 4", "2:values/prod.yaml": "new file values", "3:values.yaml": "new url values"})
	if got := b.kas.requests("charts")[0].Ref; got.GetBranch() != "main" {
		t.Error(got)
	}
}
