package engine_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"gitlab.com/agentk/agentk/api/agentcfg"
	pb "gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/test/kube"
)

func TestKustomize_AsksForWhatItRefersTo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	p.spec.Paths = []*agentcfg.PathCF{
		{Path: &agentcfg.PathCF_Kustomize{Kustomize: "overlay"}},
		{Path: &agentcfg.PathCF_Glob{Glob: "raw/*.yaml"}},
	}
	content := files{
		"overlay/kustomization.yaml": "resources: [../base]\nnamePrefix: pre-\n",
		"raw/a.yaml":                 configMap("raw", "1"), "elsewhere.yaml": configMap("elsewhere", "1"),
	}
	r.start(p, "c1", content)
	need := r.waitFor("Need", func(m *pb.FromEngine) bool { return m.GetNeed().GetWorker() == p.worker() }).GetNeed()
	if len(need.GetDirectories()) != 1 || need.GetDirectories()[0] != "base" || need.GetCommitId() != "c1" {
		t.Fatalf("%v", need)
	}
	content["base/kustomization.yaml"] = "resources: [cm.yaml]\n"
	content["base/cm.yaml"] = configMap("a", "1")
	begin := &pb.Begin{Worker: p.worker(), Fetched: []string{"base"}, Unit: &pb.Begin_ManifestProject{
		ManifestProject: &pb.ManifestProject{Spec: p.spec, ProjectId: p.id, CommitId: "c1"},
	}}
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Begin{Begin: begin}})
	r.sendFiles(p.worker(), content)
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: p.worker()}}})
	if f := r.finished(p); f.GetError() != "" || f.GetApplied() != 2 {
		t.Errorf("%v", f)
	}
	if data(t, ns, "pre-a", "key") != "1" || data(t, ns, "raw", "key") != "1" || exists(t, configMaps, ns, "elsewhere") {
		t.Error("the wrong objects were applied")
	}
}

func TestKustomize_RemoteBaseIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, _ := newProject(t)
	p.spec.Paths = []*agentcfg.PathCF{{Path: &agentcfg.PathCF_Kustomize{Kustomize: "k"}}}
	if f := r.syncError(p, "c1", files{"k/kustomization.yaml": "resources: [\"https://example.com/x.yaml\"]\n"}, "k/kustomization.yaml"); !f.GetUserError() {
		t.Errorf("%v", f)
	}
}

// chartUnit announces and runs a chart.
func (r *rig) chart(p *project, spec *agentcfg.ChartCF, commit string, content files) *pb.Finished {
	r.t.Helper()
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Begin{Begin: &pb.Begin{Worker: p.worker(), Unit: &pb.Begin_Chart{
		Chart: &pb.Chart{Spec: spec, ProjectId: p.id, CommitId: commit},
	}}}})
	r.sendFiles(p.worker(), content)
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: p.worker()}}})
	return r.finished(p)
}

func TestChart_IsAppliedAndRecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	spec := &agentcfg.ChartCF{
		ReleaseName: "shop", Namespace: ns, MaxHistory: new(int32(2)),
		Source: &agentcfg.ChartSourceCF{Source: &agentcfg.ChartSourceCF_Project{Project: &agentcfg.ChartProjectSourceCF{Path: "chart"}}},
		Values: []*agentcfg.ChartValuesCF{{From: &agentcfg.ChartValuesCF_Inline{Inline: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"word": structpb.NewStringValue("hello")}})}}},
	}
	content := files{
		"chart/Chart.yaml":        "apiVersion: v2\nname: shop\nversion: 1.2.3\nappVersion: \"9\"\n",
		"chart/values.yaml":       "word: nothing\n",
		"chart/templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {key: {{ .Values.word }}, v: {{ .Capabilities.KubeVersion.Major | quote }}}\n",
	}
	if f := r.chart(p, spec, "c1", content); f.GetError() != "" || f.GetApplied() != 1 {
		t.Fatalf("%v", f)
	}
	if got := data(t, ns, "shop", "key"); got != "hello" {
		t.Errorf("key is %q", got)
	}
	// The same again is no new revision.
	r.chart(p, spec, "c2", content)
	for i := range 3 {
		content["chart/Chart.yaml"] = fmt.Sprintf("apiVersion: v2\nname: shop\nversion: 1.2.%d\n", 4+i)
		if f := r.chart(p, spec, "c3", content); f.GetError() != "" {
			t.Fatalf("%v", f)
		}
	}
	list := helm(t, "list", "-n", ns)
	if !strings.Contains(list, "shop-1.2.6") || !strings.Contains(list, "deployed") {
		t.Errorf("helm list:\n%s", list)
	}
	history := helm(t, "history", "shop", "-n", ns)
	if strings.Count(history, "shop-1.2.") != 2 || !strings.Contains(history, "superseded") || !strings.Contains(history, "4") {
		t.Errorf("helm history:\n%s", history)
	}
	delete(content, "chart/templates/cm.yaml")
	if f := r.chart(p, spec, "c4", content); f.GetPruned() != 1 {
		t.Errorf("%v", f)
	}
}

func helm(t *testing.T, args ...string) string {
	t.Helper()
	path, err := kube.Helm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, append(args, "--kubeconfig", cluster.AdminKubeconfig)...).CombinedOutput()
	if err != nil {
		t.Fatalf("helm %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestChart_DoesNotTakeWhatAProjectOwns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	r.sync(p, "c1", files{"a.yaml": configMap("a", "git")})
	q, _ := newProject(t)
	spec := &agentcfg.ChartCF{ReleaseName: "a", Namespace: ns, Source: &agentcfg.ChartSourceCF{}}
	f := r.chart(q, spec, "c1", files{"Chart.yaml": "apiVersion: v2\nname: a\nversion: 1.0.0\n", "templates/a.yaml": configMap("a", "chart")})
	if !strings.Contains(f.GetError(), "belongs to another inventory") || data(t, ns, "a", "key") != "git" {
		t.Errorf("%v", f)
	}
}

func TestDiff_SaysWhatWouldChange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, ns := newProject(t)
	secret := func(value string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: " + value + "}\n"
	}
	r.sync(p, "c1", files{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1"), "same.yaml": configMap("same", "1"), "s.yaml": secret("hunter2")})
	if err := cluster.Apply(t.Context(), owned(ns, "foreign", "", "1")); err != nil {
		t.Fatal(err)
	}
	q := *p
	r.recorder.take()
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Begin{Begin: &pb.Begin{Worker: "diff", Diff: true, Unit: &pb.Begin_ManifestProject{
		ManifestProject: &pb.ManifestProject{Spec: q.spec, ProjectId: q.id, CommitId: "c2"},
	}}}})
	r.sendFiles("diff", files{
		"a.yaml": configMap("a", "2"), "n.yaml": configMap("new", "1"), "same.yaml": configMap("same", "1"),
		"s.yaml": secret("correcthorse"), "f.yaml": configMap("foreign", "2"),
	})
	r.send(&pb.ToEngine{Message: &pb.ToEngine_Run{Run: &pb.Run{Worker: "diff"}}})
	diffs := map[string]*pb.Diff{}
	f := r.waitFor("Finished", func(m *pb.FromEngine) bool {
		if d := m.GetDiff(); d != nil {
			diffs[strings.TrimPrefix(d.GetObject(), "ConfigMap "+ns+"/")] = d
		}
		return m.GetFinished().GetWorker() == "diff"
	}).GetFinished()
	if f.GetApplied() != 3 || f.GetPruned() != 1 || f.GetFailed() != 1 || len(diffs) != 5 {
		t.Errorf("%v\n%v", f, diffs)
	}
	if d := diffs["a"]; d.GetAction() != pb.Diff_CHANGE || d.GetFile() != "a.yaml" || !strings.Contains(d.GetText(), "-  key: \"1\"\n+  key: \"2\"\n") {
		t.Errorf("a: %v", d)
	}
	if d := diffs["new"]; d.GetAction() != pb.Diff_CREATE || !strings.Contains(d.GetText(), "+  name: new\n") {
		t.Errorf("new: %v", d)
	}
	if d := diffs["b"]; d.GetAction() != pb.Diff_PRUNE {
		t.Errorf("b: %v", d)
	}
	if d := diffs["foreign"]; d.GetAction() != pb.Diff_REFUSED || !strings.Contains(d.GetText(), "belongs to no inventory") {
		t.Errorf("foreign: %v", d)
	}
	s := diffs["Secret "+ns+"/s"]
	for _, word := range []string{"hunter2", "correcthorse", "aHVudGVyMg", "Y29ycmVjdGhvcnNl"} {
		if strings.Contains(s.GetText(), word) {
			t.Errorf("the Secret is shown: %s", s.GetText())
		}
	}
	if s.GetAction() != pb.Diff_CHANGE || !strings.Contains(s.GetText(), "hidden") {
		t.Errorf("s: %v", s)
	}
	for _, req := range r.recorder.take() {
		if req.method != "GET" && !strings.Contains(req.query, "dryRun=All") {
			t.Errorf("sent %v", req)
		}
	}
	if data(t, ns, "a", "key") != "1" {
		t.Error("the comparison changed something")
	}
}
