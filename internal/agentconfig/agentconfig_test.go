package agentconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/internal/backend"
)

func TestPath(t *testing.T) {
	tests := map[string]string{
		"demo":                  ".gitlab/agents/demo/config.yaml",
		"a":                     ".gitlab/agents/a/config.yaml",
		"my-agent-1":            ".gitlab/agents/my-agent-1/config.yaml",
		strings.Repeat("a", 63): ".gitlab/agents/" + strings.Repeat("a", 63) + "/config.yaml",
		"":                      "",
		"..":                    "",
		"a/../b":                "",
		"-a":                    "",
		"a-":                    "",
		"Demo":                  "",
		"a\n":                   "",
		strings.Repeat("a", 64): "",
	}
	for name, want := range tests {
		got, err := Path(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestParse_EmptyFiles(t *testing.T) {
	for _, data := range []string{"", "\n\n", "# only a comment\n", "null\n", "---\n", "{}", "ci_access:\n"} {
		file, err := Parse([]byte(data))
		if err != nil {
			t.Errorf("%q: %v", data, err)
			continue
		}
		if diff := cmp.Diff(&agentcfg.ConfigurationFile{}, file, protocmp.Transform()); diff != "" {
			t.Errorf("%q: %s", data, diff)
		}
	}
}

func TestParse_Full(t *testing.T) {
	file, err := Parse([]byte(`
observability:
  logging:
    level: debug
    grpc_level: warn
ci_access:
  projects:
    - id: group/one
      access_as: {ci_job: {}}
      environments: [prod, "review/*"]
      protected_branches_only: true
      resource_management: {enabled: true}
  groups:
    - id: group
      default_namespace: team
      access_as:
        impersonate:
          username: robot
          groups: [a]
          extra: [{key: k, val: [v]}]
user_access:
  access_as: {user: {}}
  projects: [{id: group/one}]
gitops:
  manifest_projects: [{paths: [{glob: "*.yaml"}], reconcile_timeout: 3600s, resource_exclusions: [{kinds: [Secret]}]}]
starboard: {cadence: "0 0 * * *"}
cilium: {hubble_relay_address: "hubble:80"}
flux: {webhook_receiver_url: "http://receiver"}
`))
	if err != nil {
		t.Fatal(err)
	}
	agent := backend.Agent{ID: 7, Name: "demo", Project: backend.Project{ID: 9, Path: "group/agents"}}
	got := ForAgent(file, agent, "https://gitlab.example.com")
	want := &agentcfg.AgentConfiguration{
		Gitops:            file.Gitops,
		Observability:     file.Observability,
		CiAccess:          file.CiAccess,
		ContainerScanning: file.Starboard,
		Flux:              file.Flux,
		AgentId:           7,
		ProjectId:         9,
		ProjectPath:       "group/agents",
		GitlabExternalUrl: "https://gitlab.example.com",
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("for the agent: %s", diff)
	}
	if got.Observability.Logging.GetGrpcLevel() != agentcfg.LogLevelEnum_warn || got.ContainerScanning == nil {
		t.Errorf("values are lost: %v", got)
	}
	unsupported := []string{"gitops.manifest_projects[0].resource_exclusions", "container_scanning", "flux", "ci_access.projects[0].resource_management"}
	if diff := cmp.Diff(unsupported, Unsupported(got)); diff != "" {
		t.Errorf("unsupported: %s", diff)
	}
	if diff := cmp.Diff([]string{"cilium"}, NotForwarded(file)); diff != "" {
		t.Errorf("not forwarded: %s", diff)
	}
}

func TestForAgent_EmptyFileStillNamesTheAgent(t *testing.T) {
	got := ForAgent(&agentcfg.ConfigurationFile{}, backend.Agent{ID: 1, Project: backend.Project{ID: 2, Path: "p"}}, "https://x")
	want := &agentcfg.AgentConfiguration{AgentId: 1, ProjectId: 2, ProjectPath: "p", GitlabExternalUrl: "https://x"}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if keys := Unsupported(got); len(keys) != 0 {
		t.Errorf("unsupported: %v", keys)
	}
}

// TestParse_Mistakes wants the path and the line of each.
func TestParse_Mistakes(t *testing.T) {
	tests := []struct {
		name string
		data string
		want []string
	}{
		{"not YAML", "ci_access: [", []string{"line "}},
		{"not a mapping", "- a\n- b\n", []string{"line 1"}},
		{"unknown key at the top", "ci_acces: {}\n", []string{"ci_acces", "line 1"}},
		{"unknown key deep down", "ci_access:\n  projects:\n  - id: a\n    namespace: b\n", []string{"ci_access.projects[0].namespace", "line 4"}},
		{"include is unknown", "include: x\n", []string{"include", "line 1"}},
		{"duplicate key", "ci_access: {}\nci_access: {}\n", []string{"ci_access", "line 2"}},
		{"two documents", "---\nci_access: {}\n---\nci_access: {}\n", []string{"document"}},
		{"duration without s", "\ngitops:\n  manifest_projects:\n  - reconcile_timeout: 1h\n", []string{"gitops.manifest_projects[0].reconcile_timeout", "line 4"}},
		{"unknown level", "observability:\n  logging:\n    level: loud\n", []string{"observability.logging.level", "line 3"}},
		{"wrong type", "ci_access: 5\n", []string{"ci_access", "line 1"}},
		{"empty id", "ci_access:\n  groups:\n  - id: \"\"\n", []string{"ci_access.groups[0].id", "line 3"}},
		{"nothing in access_as", "ci_access:\n  projects:\n  - id: a\n    access_as: {}\n", []string{"ci_access.projects[0].access_as", "line 4"}},
		{"two in access_as", "ci_access:\n  projects:\n  - id: a\n    access_as: {agent: {}, ci_job: {}}\n", []string{"ci_access.projects[0].access_as", "line 4"}},
		{"project twice", "gitops:\n  manifest_projects:\n  - id: a\n  - id: a\n", []string{"gitops.manifest_projects[1].id", "line 4"}},
		{
			"all at once", "ci_access:\n  projects:\n  - id: \"\"\n  - environments: [\"\"]\n",
			[]string{"ci_access.projects[0].id (line 3)", "ci_access.projects[1].id (line 4)", "ci_access.projects[1].environments[0] (line 4)"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file, err := Parse([]byte(test.data))
			if err == nil || file != nil {
				t.Fatalf("got %v, %v", file, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("ci_access:\n  projects:\n  - id: a\n    access_as: {ci_job: {}}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("observability: {logging: {level: 3}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if (file == nil) == (err == nil) {
			t.Fatalf("both or neither of %v and %v", file, err)
		}
	})
}
