package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestStandalone_OtherSectionsAreOptional(t *testing.T) {
	c, err := Load(t.Context(), "testdata/standalone.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f := c.File
	if !c.Standalone() || f.Gitlab != nil || f.Gitaly != nil || f.Redis != nil || f.Api != nil || f.PrivateApi != nil {
		t.Errorf("sections appear by themselves: %v", f)
	}
	if f.Agent.Listen.Address != "127.0.0.1:8150" || f.Agent.KubernetesApi != nil || f.Observability.Listen.Address != "127.0.0.1:8151" {
		t.Errorf("defaults: %v", f)
	}
	if f.Standalone.Projects[0].Visibility != "private" || f.Standalone.Projects[1].Visibility != "internal" {
		t.Errorf("visibility: %v", f.Standalone.Projects)
	}
	if len(c.Warnings)+len(c.Unsupported) > 0 {
		t.Errorf("%q %q", c.Warnings, c.Unsupported)
	}
	parse(t, "standalone: {repositories_dir: /r}")
}

func TestStandalone_GitopsProjects(t *testing.T) {
	const text = "standalone:\n  repositories_dir: /r\n  projects: [{id: 1, path: a/b}, {id: 2, path: a/c}]\n" +
		"  agents:\n  - {id: 1, name: x, project: a/b, gitops_projects: [%s]}\n"
	if c := parse(t, fmt.Sprintf(text, "a/c")); c.File.Standalone.Agents[0].GitopsProjects[0] != "a/c" {
		t.Errorf("got %v", c.File.Standalone)
	}
	wantMistakes(t, fmt.Sprintf(text, "a/d"), "standalone.agents[0].gitops_projects[0] (line 5): is none of standalone.projects")
	wantMistakes(t, fmt.Sprintf(text, `""`), "standalone.agents[0].gitops_projects[0] (line 5): must not be empty")
}

func TestStandalone_ExternalURLMayStandAlone(t *testing.T) {
	const section = "standalone: {repositories_dir: /r}\n"
	if c := parse(t, section+"gitlab: {external_url: \"https://gl.test\"}\n"); c.File.Gitlab.GetExternalUrl() != "https://gl.test" || c.File.Gitlab.Address != "" {
		t.Errorf("got %v", c.File.Gitlab)
	}
	if c := parse(t, section+"gitlab: {}\n"); c.File.Gitlab.ExternalUrl != nil {
		t.Errorf("got %v", c.File.Gitlab)
	}
	wantMistakes(t, section+"gitlab: {external_url: gl.test}\n", "gitlab.external_url (line 2): must be an absolute URI such as https://example.com")
}

// edit changes standalone.yaml in one place.
func edit(t *testing.T, old, replacement string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/standalone.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("no %q", old)
	}
	return strings.Replace(string(data), old, replacement, 1)
}

func TestStandalone_Mistakes(t *testing.T) {
	hash := func(i string) string { return strings.Repeat("0", 63) + i }
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, tt := range []struct {
		name, old, replacement string
		want                   []string
	}{
		{"project id twice", "id: 2\n      path", "id: 1\n      path", []string{"standalone.projects[1].id (line 10): is the same as standalone.projects[0].id"}},
		{"project path twice", "path: infra/app\n", "path: infra/platform/agents\n", []string{
			"standalone.projects[1].path (line 11): is the same as standalone.projects[0].path",
			"standalone.agents[1].project (line 24): is none of standalone.projects",
			"standalone.jobs[0].project (line 29): is none of standalone.projects",
		}},
		{"project path leaves the folder", "path: infra/app\n", "path: infra/../../app\n", []string{
			"standalone.projects[1].path (line 11): must be a full project path such as group/project",
			"standalone.agents[1].project (line 24): is none of standalone.projects",
			"standalone.jobs[0].project (line 29): is none of standalone.projects",
		}},
		{"group elsewhere", "{id: 11, path: infra/platform}", "{id: 11, path: infra/plat}", []string{"standalone.projects[0].groups[1].path (line 9): must be a parent of the project's path"}},
		{"group id differs", "{id: 10, path: infra}\n  agents", "{id: 12, path: infra}\n  agents", []string{"standalone.projects[1].groups[0].id (line 14): the group of this path has the id 10 elsewhere"}},
		{"group id of two", "{id: 11, path: infra/platform}", "{id: 10, path: infra/platform}", []string{
			"standalone.projects[0].groups[1].id (line 9): is the id of the group infra already",
		}},
		{"visibility", "visibility: internal", "visibility: hidden", []string{`standalone.projects[1].visibility (line 12): must be one of "private", "internal", "public"`}},
		{"agent id twice", "id: 2\n      name", "id: 1\n      name", []string{"standalone.agents[1].id (line 22): is the same as standalone.agents[0].id"}},
		{"agent name twice", "project: infra/app\n  jobs", "project: infra/platform/agents\n  jobs", []string{"standalone.agents[1].name (line 23): is the same as standalone.agents[0].name"}},
		{"agent name", "name: prod", "name: Prod_1", []string{"standalone.agents[0].name (line 17): must match ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}},
		{"agent's project", "project: infra/app\n  jobs", "project: infra/ap\n  jobs", []string{"standalone.agents[1].project (line 24): is none of standalone.projects"}},
		{"three tokens", `- "` + hash("2") + `"`, `- "` + hash("2") + `"` + "\n        - \"" + hash("4") + `"`, []string{"standalone.agents[0].token_sha256 (line 19): must have at most 2 items"}},
		{"token twice", hash("2"), hash("1"), []string{"standalone.agents[0].token_sha256[1] (line 21): is the same as standalone.agents[0].token_sha256[0]"}},
		{"token of a job", hash("3"), hash("1"), []string{"standalone.jobs[0].token_sha256 (line 27): is the same as standalone.agents[0].token_sha256[0]"}},
		{"upper case", hash("2"), hash("A"), []string{`standalone.agents[0].token_sha256[1] (line 21): must be a lower-case hexadecimal SHA-256, as "kas standalone hash-token" prints it`}},
		{"clear token", hash("2"), "glagent-secret", []string{"standalone.agents[0].token_sha256[1] (line 21): must have at least 64 bytes"}},
		{"hash of nothing", hash("2"), empty, []string{"standalone.agents[0].token_sha256[1] (line 21): is the hash of an empty token"}},
		{"job's hash", hash("3"), hash("g"), []string{"standalone.jobs[0].token_sha256 (line 27): must match ^[0-9a-f]{64}$"}},
		{"job's project", "pipeline: 50\n      project: infra/app", "pipeline: 50\n      project: x", []string{"standalone.jobs[0].project (line 29): is none of standalone.projects"}},
		{"job's user", "user: {id: 5, username: alice}", "user: ", []string{"standalone.jobs[0].user (line 26): must be present"}},
		{"job id twice", "  jobs:\n", "  jobs:\n    - {id: 100, token_sha256: \"" + hash("9") + "\", pipeline: 1, project: infra/app, user: {id: 1, username: u}}\n", []string{
			"standalone.jobs[1].id (line 27): is the same as standalone.jobs[0].id",
		}},
		{"tier", "tier: development", "tier: dev", []string{`standalone.jobs[0].environment.tier (line 30): must be one of "production", "staging", "testing", "development", "other"`}},
		{"no repositories", "repositories_dir: /srv/repositories", "any_namespace: true", []string{"standalone.repositories_dir (line 1): must not be empty"}},
		{"proxy address", "https://kas.example.com:8154", "kas.example.com:8154", []string{"standalone.kubernetes_api_url (line 3): must be an absolute URI such as https://example.com"}},
	} {
		t.Run(tt.name, func(t *testing.T) { wantMistakes(t, edit(t, tt.old, tt.replacement), tt.want...) })
	}
}

func TestStandalone_MistakesShowNoSecret(t *testing.T) {
	_, err := parseFile([]byte(edit(t, strings.Repeat("0", 63)+"2", "glagent-canary")), nil, "kas.yaml")
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
}
