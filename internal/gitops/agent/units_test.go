package agent

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/agentconfig"
)

func parse(t *testing.T, text string) *agentcfg.AgentConfiguration {
	t.Helper()
	file, err := agentconfig.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &agentcfg.AgentConfiguration{AgentId: 7, ProjectPath: "group/config", Gitops: file.Gitops}
}

func units(t *testing.T, text string) ([]unit, error) {
	t.Helper()
	r, err := newValuesReader(nil, nil, timing{})
	if err != nil {
		t.Fatal(err)
	}
	return newUnits(parse(t, text), r)
}

func TestUnits_Defaults(t *testing.T) {
	got, err := units(t, "gitops:\n  manifest_projects:\n  - {}\n  - id: a\n    prune: false\n    reconcile_timeout: 0s\n"+
		"  charts:\n  - release_name: web\n    source: {project: {path: /x/}}\n")
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	hour := durationpb.New(time.Hour)
	want := &agentcfg.ManifestProjectCF{
		Id: proto.String("group/config"), DefaultNamespace: "default",
		Paths:            []*agentcfg.PathCF{{Path: &agentcfg.PathCF_Glob{Glob: "**/*.{yaml,yml,json}"}}},
		ReconcileTimeout: hour, DryRunStrategy: "none", PruneOneof: &agentcfg.ManifestProjectCF_Prune{Prune: true}, PruneTimeout: hour,
		PrunePropagationPolicy: "foreground", InventoryPolicy: "must_match",
		Drift: &agentcfg.DriftCF{Interval: durationpb.New(5 * time.Minute)}, OnError: "stop",
	}
	if !proto.Equal(got[0].spec, want) {
		t.Error(got[0].spec)
	}
	if p := got[1].spec.(*agentcfg.ManifestProjectCF); p.GetPrune() || p.ReconcileTimeout.AsDuration() != 0 {
		t.Error(p)
	}
	chart := &agentcfg.ChartCF{
		ReleaseName: "web", Namespace: "default", MaxHistory: proto.Int32(1),
		Source: &agentcfg.ChartSourceCF{Source: &agentcfg.ChartSourceCF_Project{
			Project: &agentcfg.ChartProjectSourceCF{Id: "group/config", Path: "x"},
		}},
	}
	if !proto.Equal(got[2].spec, chart) || got[2].id != "chart:default/web" || got[2].sources[0].repository.paths[0].GetGlob() != "x/**" {
		t.Error(got[2])
	}
}

// The configuration of all modules is not the module's to change.
func TestUnits_LeavesConfigurationAlone(t *testing.T) {
	cfg := parse(t, "gitops:\n  manifest_projects:\n  - paths: [{kustomize: /k/}]\n  charts:\n  - release_name: web\n    source: {project: {path: /x/}}\n")
	before := proto.CloneOf(cfg)
	if _, err := newUnits(cfg, &valuesReader{}); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(before, cfg) {
		t.Error(cfg)
	}
}

func TestUnits_Mistakes(t *testing.T) {
	const chart = "gitops:\n  charts:\n  - release_name: web\n    source: {project: {path: x}}\n"
	for name, tc := range map[string]struct{ text, want string }{
		"kustomize outside":  {"gitops:\n  manifest_projects:\n  - paths: [{kustomize: ../x}]\n", "gitops.manifest_projects[0]: paths[0].kustomize: \"../x\" is not a directory inside"},
		"kustomize detour":   {"gitops:\n  manifest_projects:\n  - paths: [{kustomize: a/../x}]\n", "not a directory"},
		"kustomize remote":   {"gitops:\n  manifest_projects:\n  - paths: [{kustomize: 'https://example.com//x'}]\n", "not a directory"},
		"service account":    {"gitops:\n  manifest_projects:\n  - service_account: deployer\n", "service_account: \"deployer\" is not <namespace>/<name>"},
		"service account, 3": {"gitops:\n  manifest_projects:\n  - service_account: a/b/c\n", "service_account"},
		"namespace":          {"gitops:\n  manifest_projects:\n  - default_namespace: A\n", "default_namespace"},
		"timeout":            {"gitops:\n  manifest_projects:\n  - prune_timeout: -1s\n", "prune_timeout"},
		"same project":       {"gitops:\n  manifest_projects:\n  - {}\n  - id: group/config\n", "manifest_projects[1]: group/config is there twice"},
		"same release":       {chart + "  - release_name: web\n    namespace: default\n    source: {project: {path: y}}\n", "charts[1]: chart:default/web is there twice"},
		"release name":       {strings.Replace(chart, "web", "Web", 1), "release_name"},
		"no source":          {"gitops:\n  charts:\n  - release_name: web\n", "source.project: is required"},
		"path outside":       {strings.Replace(chart, "path: x", "path: ../x", 1), "source.project.path"},
		"history":            {chart + "    max_history: -1\n", "max_history"},
		"url":                {chart + "    values: [{url: {url: 'https://example.com/v.yaml'}}]\n", "values[0].url: agentk does not read values from example.com: it would have to run with --gitops-values-url=https://example.com/"},
		"empty values":       {chart + "    values: [{}]\n", "values[0].inline, file or url"},
		"inline list":        {chart + "    values: [{inline: [a, b]}]\n", "values[0].inline: must be a mapping"},
		"file outside":       {chart + "    values: [{file: {file: ../x}}]\n", "values[0].file.file"},
		"no file":            {chart + "    values: [{file: {}}]\n", "values[0].file.file"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := units(t, tc.text); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Error(err)
			}
		})
	}
}

// Stock servers check less than ours.
func TestUnits_UncheckedByKas(t *testing.T) {
	r := &valuesReader{}
	for _, g := range []*agentcfg.GitopsCF{
		{ManifestProjects: []*agentcfg.ManifestProjectCF{{Id: proto.String("")}}},
		{ManifestProjects: []*agentcfg.ManifestProjectCF{{InventoryPolicy: "x"}}},
		{ManifestProjects: []*agentcfg.ManifestProjectCF{{Paths: []*agentcfg.PathCF{{}}}}},
		{Charts: []*agentcfg.ChartCF{{}}},
	} {
		if _, err := newUnits(&agentcfg.AgentConfiguration{ProjectPath: "p", Gitops: g}, r); err == nil {
			t.Errorf("%v is accepted", g)
		}
	}
	if _, err := newUnits(&agentcfg.AgentConfiguration{Gitops: &agentcfg.GitopsCF{ManifestProjects: []*agentcfg.ManifestProjectCF{{}}}}, r); err == nil {
		t.Error("a project without a name is accepted")
	}
	if u, err := newUnits(&agentcfg.AgentConfiguration{}, r); err != nil || len(u) != 0 {
		t.Error(u, err)
	}
}

func TestOutermost(t *testing.T) {
	for in, want := range map[string]string{"a,a/b,c,a-b,c/d/e": "a,a-b,c", ".,a,b": ".", "a,a": "a", "": ""} {
		if got := strings.Join(outermost(strings.Split(in, ",")), ","); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := globsBelow([]string{"a*{b}"})[0].GetGlob(); got != `a\*\{b\}/**` {
		t.Error(got)
	}
}
