package standalone

import (
	"strings"
	"testing"
)

func TestNewSection_Mistakes(t *testing.T) {
	hash := HashToken("a")
	tests := []struct{ name, section, want string }{
		{"no folder", `{}`, "standalone.repositories_dir: must not be empty"},
		{"traversal", `{repositories_dir: /r, projects: [{id: 1, path: ../x}]}`, `standalone.projects[0].path: "../x" is not a full path`},
		{"inner traversal", `{repositories_dir: /r, projects: [{id: 1, path: a/../../x}]}`, "is not a full path"},
		{"absolute", `{repositories_dir: /r, projects: [{id: 1, path: /etc}]}`, "is not a full path"},
		{"trailing slash", `{repositories_dir: /r, projects: [{id: 1, path: a/}]}`, "is not a full path"},
		{"backslash", `{repositories_dir: /r, projects: [{id: 1, path: 'a\b'}]}`, "is not a full path"},
		{"line break", `{repositories_dir: /r, projects: [{id: 1, path: "a\nb"}]}`, "is not a full path"},
		{"inside a repository", `{repositories_dir: /r, projects: [{id: 1, path: a.git/refs}]}`, "no part of a path may end in .git"},
		{"project twice", `{repositories_dir: /r, projects: [{id: 1, path: a/b}, {id: 2, path: A/b}]}`, `standalone.projects[1].path: project "A/b" appears twice`},
		{"project id twice", `{repositories_dir: /r, projects: [{id: 1, path: a/b}, {id: 1, path: a/c}]}`, "standalone.projects[1].id: must be positive and unique"},
		{"project id 0", `{repositories_dir: /r, projects: [{path: a/b}]}`, "standalone.projects[0].id: must be positive"},
		{"group no parent", `{repositories_dir: /r, projects: [{id: 1, path: ab/c, groups: [{id: 1, path: a}]}]}`, `standalone.projects[0].groups[0].path: group "a" is not a parent of project "ab/c"`},
		{"group is the project", `{repositories_dir: /r, projects: [{id: 1, path: a/b, groups: [{id: 1, path: a/b}]}]}`, "is not a parent"},
		{"group twice", `{repositories_dir: /r, projects: [{id: 1, path: a/b, groups: [{id: 1, path: a}, {id: 1, path: a}]}]}`, "appears twice"},
		{"group with two ids", `{repositories_dir: /r, projects: [{id: 1, path: a/b, groups: [{id: 1, path: a}]}, {id: 2, path: a/c, groups: [{id: 2, path: a}]}]}`, "already paired otherwise"},
		{"id of two groups", `{repositories_dir: /r, projects: [{id: 1, path: a/b/c, groups: [{id: 1, path: a}, {id: 1, path: a/b}]}]}`, "already paired otherwise"},
		{"agent of no project", `{repositories_dir: /r, agents: [{id: 1, name: x, project: a/b}]}`, `standalone.agents[0].project: project "a/b" is not listed`},
		{"agent name", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: ../x, project: a/b}]}`, "standalone.agents[0].name"},
		{"agent name twice", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b}, {id: 2, name: x, project: A/b}]}`, "two agents named"},
		{"agent id twice", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b}, {id: 1, name: z, project: a/b}]}`, "standalone.agents[1].id"},
		{
			"three tokens", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [` + HashToken("1") + `, ` + HashToken("2") + `, ` + HashToken("3") + `]}]}`,
			"at most two tokens, here are 3",
		},
		{
			"token of two agents", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [` + hash + `]}, {id: 2, name: z, project: a/b, token_sha256: [` + hash + `]}]}`,
			"standalone.agents[1].token_sha256[0]: is the same token as standalone.agents[0].token_sha256[0]",
		},
		{"token in clear", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [glagent-secret]}]}`, "64 lower-case hexadecimal digits"},
		{"token in upper case", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [` + strings.ToUpper(hash) + `]}]}`, "64 lower-case"},
		{"token too long", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [` + hash + `00]}]}`, "64 lower-case"},
		{"empty token", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [` + HashToken("") + `]}]}`, "hash of an empty token"},
		{"job of no project", `{repositories_dir: /r, jobs: [{id: 1, project: a/b, user: {username: u}, token_sha256: ` + hash + `}]}`, "standalone.jobs[0].project"},
		{"job without user", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], jobs: [{id: 1, project: a/b, token_sha256: ` + hash + `}]}`, "standalone.jobs[0].user.username"},
		{
			"job id twice", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], jobs: [{id: 1, project: a/b, user: {username: u}, token_sha256: ` + hash + `}, {id: 1, project: a/b, user: {username: u}, token_sha256: ` + HashToken("b") + `}]}`,
			"standalone.jobs[1].id",
		},
		{
			"agent token as job token", `{repositories_dir: /r, projects: [{id: 1, path: a/b}], agents: [{id: 1, name: x, project: a/b, token_sha256: [` + hash + `]}], jobs: [{id: 1, project: a/b, user: {username: u}, token_sha256: ` + hash + `}]}`,
			"is the same token as",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newSection(parseSection(t, tt.section))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error tells the token: %v", err)
			}
		})
	}
}

func TestNewSection_AllMistakesAtOnce(t *testing.T) {
	_, err := newSection(parseSection(t, `{projects: [{id: 1, path: ..}], agents: [{id: 1, name: X, project: none}]}`))
	for _, want := range []string{"repositories_dir", "projects[0].path", "agents[0].name", "agents[0].project"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestNew_BadConfig(t *testing.T) {
	good := parseSection(t, `{repositories_dir: /r}`)
	for name, cfg := range map[string]Config{
		"no section":              {Parse: parseStrict},
		"no parser":               {File: good},
		"nothing to reload with":  {File: good, Parse: parseStrict, ConfigPath: "/x"},
		"section that is invalid": {File: parseSection(t, `{}`), Parse: parseStrict},
	} {
		_, err := New(cfg)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHashToken(t *testing.T) {
	const want = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	if got := HashToken("hello"); got != want {
		t.Errorf("HashToken = %s, want %s", got, want)
	}
}
