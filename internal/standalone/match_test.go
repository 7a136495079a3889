package standalone

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"gitlab.com/agentk/agentk/api/kascfg"
)

func TestWildcardMatch(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"prod", "prod", true},
		{"prod", "production", false},
		{"prod", "preprod", false},
		{"prod*", "production", true},
		{"prod*", "preprod", false},
		{"*prod", "preprod", true},
		{"*prod", "production", false},
		{"*", "", true},
		{"*", "a/b", true},
		{"**", "x", true},
		{"", "", true},
		{"", "x", false},
		{"review/*", "review/feature-1", true},
		{"review/*", "review/", true},
		{"review/*", "review", false},
		{"review/*", "x/review/1", false},
		{"review/*/eu", "review/a/b/eu", true},
		{"review/*/eu", "review/a/b/eux", false},
		{"a*b*c", "abbbc", true},
		{"a*b*c", "acb", false},
		{"prod.eu", "prodxeu", false},
		{"prod.*", "production", false},
		{"prod.*", "prod.eu", true},
		{"[a-z]*", "x", false},
		{"(prod|dev)*", "prod", false},
		{"^prod$*", "prod", false},
		{"pro?*", "prod", false},
		{`a\*`, "a", false},
		{"Prod", "prod", false},
		{"*\nprod", "prod", false},
	}
	for _, tt := range tests {
		if got := wildcardMatch(tt.pattern, tt.name); got != tt.want {
			t.Errorf("wildcardMatch(%q, %q) = %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestWildcardMatch_ManyStarsTakeNoExponentialTime(t *testing.T) {
	if wildcardMatch(strings.Repeat("a*", 2000)+"b", strings.Repeat("a", 5000)) {
		t.Error("matched")
	}
}

// matchWorld is where the matrix of ci_access is played: the job runs in corp/team/app, its agents are registered elsewhere.
const matchWorld = `
repositories_dir: /nowhere
projects:
- {id: 1, path: corp/agents, groups: [{id: 10, path: corp}]}
- {id: 2, path: corp/team/app, groups: [{id: 10, path: corp}, {id: 20, path: corp/team}]}
- {id: 3, path: other/agents, groups: [{id: 30, path: other}]}
- {id: 4, path: corp/team/app-two, groups: [{id: 10, path: corp}, {id: 20, path: corp/team}]}
agents:
- {id: 1, name: one, project: corp/agents}
- {id: 2, name: own, project: corp/team/app}
- {id: 3, name: strange, project: other/agents}
- {id: 4, name: two, project: corp/agents}
`

type matchCase struct {
	name    string
	configs map[int64]string // by agent; an agent that is missing here has an empty configuration
	env     string           // name of the job's environment, "" is none
	protect bool
	any     bool
	want    []string // agent id and configuration
}

func (tt matchCase) grants(t *testing.T) []string {
	t.Helper()
	sec, err := newSection(parseSection(t, matchWorld))
	if err != nil {
		t.Fatal(err)
	}
	file := &kascfg.StandaloneJobCF{RefProtected: tt.protect}
	if tt.env != "" {
		file.Environment = &kascfg.StandaloneEnvironmentCF{Name: tt.env, Slug: "production", Tier: "production"}
	}
	var candidates []candidate
	for _, a := range sec.agents {
		c, err := parseStrict([]byte(tt.configs[a.id]))
		if err != nil {
			t.Fatal(err)
		}
		candidates = append(candidates, candidate{agent: a, ciAccess: c.GetCiAccess()})
	}
	j := &job{id: 5, file: file, project: sec.projects["corp/team/app"]}
	var got []string
	for _, g := range match(candidates, j, tt.any) {
		json, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(g.configuration())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %s", g.agent.id, strings.ReplaceAll(string(json), " ", "")))
	}
	return got
}

// The matrix of who may use which agent; CVE-2024-9693 let jobs reach agents that it forbids.
func TestMatch_CVE_2024_9693(t *testing.T) {
	const own = "2 {}"
	tests := []matchCase{
		{name: "nothing configured: own project only", want: []string{own}},
		{
			name:    "project",
			configs: map[int64]string{1: `ci_access: {projects: [{id: corp/team/app}]}`},
			want:    []string{"1 {}", own},
		},
		{
			name:    "project in any case",
			configs: map[int64]string{1: `ci_access: {projects: [{id: Corp/TEAM/app}]}`},
			want:    []string{"1 {}", own},
		},
		{
			name:    "a path that only begins or ends alike is another project",
			configs: map[int64]string{1: `ci_access: {projects: [{id: corp/team/app-two}, {id: team/app}, {id: corp/team}, {id: corp/team/app/}, {id: "corp/*"}]}`},
			want:    []string{own},
		},
		{
			name:    "group of the project, ancestor group",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp/team}]}`, 4: `ci_access: {groups: [{id: CORP}]}`},
			want:    []string{own, "1 {}", "4 {}"},
		},
		{
			name:    "a group that only begins alike, a project as group, a sibling group",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp/tea}, {id: corp/team/app}, {id: corp/other}, {id: cor}]}`},
			want:    []string{own},
		},
		{
			name: "nearest group first, also across agents",
			configs: map[int64]string{
				1: `ci_access: {groups: [{id: corp, default_namespace: far}]}`,
				4: `ci_access: {groups: [{id: corp, default_namespace: far}, {id: corp/team, default_namespace: near}]}`,
			},
			want: []string{own, `4 {"default_namespace":"near"}`, `1 {"default_namespace":"far"}`},
		},
		{
			name:    "project before group",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp}], projects: [{id: corp/team/app, default_namespace: p}]}`},
			want:    []string{`1 {"default_namespace":"p"}`, own},
		},
		{
			name:    "a project entry that does not fit is not replaced by a group entry that would",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp}], projects: [{id: corp/team/app, environments: [prod]}]}`},
			env:     "dev",
			want:    []string{own},
		},
		{
			name:    "explicit entry for the own project replaces the implicit one",
			configs: map[int64]string{2: `ci_access: {projects: [{id: corp/team/app, access_as: {ci_job: {}}, default_namespace: own}]}`},
			want:    []string{`2 {"default_namespace":"own","access_as":{"ci_job":{}}}`},
		},
		{
			name:    "explicit entry for the own project narrows it by environment",
			configs: map[int64]string{2: `ci_access: {projects: [{id: corp/team/app, environments: [prod]}]}`},
			env:     "dev",
		},
		{
			name:    "explicit entry for the own project narrows it to protected refs",
			configs: map[int64]string{2: `ci_access: {projects: [{id: corp/team/app, protected_branches_only: true}]}`},
		},
		{
			name:    "a group entry does not replace the implicit one",
			configs: map[int64]string{2: `ci_access: {groups: [{id: corp, access_as: {ci_job: {}}}]}`},
			want:    []string{own},
		},
		{
			name: "all of access_as is carried",
			configs: map[int64]string{
				1: `ci_access: {projects: [{id: corp/team/app, access_as: {impersonate: {username: u, groups: [g], uid: i, extra: [{key: k, val: [v]}]}}}]}`,
				4: `ci_access: {groups: [{id: corp, access_as: {agent: {}}}]}`,
			},
			want: []string{
				`1 {"access_as":{"impersonate":{"username":"u","groups":["g"],"uid":"i","extra":[{"key":"k","val":["v"]}]}}}`,
				own, `4 {"access_as":{"agent":{}}}`,
			},
		},
		{
			name:    "environment by name",
			configs: map[int64]string{1: `ci_access: {projects: [{id: corp/team/app, environments: [dev, prod]}]}`},
			env:     "prod",
			want:    []string{"1 {}", own},
		},
		{
			name:    "environment asked, job has none",
			configs: map[int64]string{1: `ci_access: {projects: [{id: corp/team/app, environments: ["*"]}]}`},
			want:    []string{own},
		},
		{
			name:    "environment is matched by name, not by slug",
			configs: map[int64]string{1: `ci_access: {projects: [{id: corp/team/app, environments: [production]}]}`},
			env:     "prod",
			want:    []string{own},
		},
		{
			name:    "environment wildcard",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp, environments: ["review/*"]}]}`},
			env:     "review/feature-1",
			want:    []string{own, "1 {}"},
		},
		{
			name:    "environment wildcard is anchored",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp, environments: ["prod*", "*od"]}]}`},
			env:     "preproduction",
			want:    []string{own},
		},
		{
			name:    "environment pattern is no regular expression",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp, environments: ["p.*", ".+*", "prod|x*"]}]}`},
			env:     "prod",
			want:    []string{own},
		},
		{
			name:    "protected refs only, ref not protected",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp, protected_branches_only: true}]}`},
			want:    []string{own},
		},
		{
			name:    "protected refs only, ref protected",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp, protected_branches_only: true}]}`},
			protect: true,
			want:    []string{own, "1 {}"},
		},
		{
			name:    "protected ref in the wrong environment",
			configs: map[int64]string{1: `ci_access: {groups: [{id: corp, protected_branches_only: true, environments: [prod]}]}`},
			protect: true, env: "dev",
			want: []string{own},
		},
		{
			name:    "another root namespace is ignored",
			configs: map[int64]string{3: `ci_access: {projects: [{id: corp/team/app}], groups: [{id: corp}, {id: corp/team}], instance: {}}`},
			want:    []string{own},
		},
		{
			name:    "another root namespace with any_namespace",
			configs: map[int64]string{3: `ci_access: {projects: [{id: corp/team/app}]}`},
			any:     true,
			want:    []string{"3 {}", own},
		},
		{
			name:    "instance needs any_namespace",
			configs: map[int64]string{1: `ci_access: {instance: {}}`},
			want:    []string{own},
		},
		{
			name: "instance comes last and has its restrictions",
			configs: map[int64]string{
				1: `ci_access: {instance: {environments: [prod]}}`,
				3: `ci_access: {instance: {default_namespace: x}}`,
				4: `ci_access: {instance: {}, groups: [{id: corp, default_namespace: g}]}`,
			},
			any: true, env: "dev",
			want: []string{own, `4 {"default_namespace":"g"}`, `3 {"default_namespace":"x"}`},
		},
		{
			name:    "entries beyond the 500th do not count",
			configs: map[int64]string{1: "ci_access: {projects: [" + strings.Repeat("{id: corp/x}, ", 500) + "{id: corp/team/app}]}"},
			want:    []string{own},
		},
		{
			name:    "the 500th counts",
			configs: map[int64]string{1: "ci_access: {projects: [" + strings.Repeat("{id: corp/x}, ", 499) + "{id: corp/team/app}]}"},
			want:    []string{"1 {}", own},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.grants(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
