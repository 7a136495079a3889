package gitlab

import (
	"errors"
	"os"
	"strings"
	"testing"
)

const ciYAML = `
stages: [prepare, deploy]
variables:
  GREETING: hello
.hidden:
  script: [exit 1]
prepare:
  stage: prepare
  script:
    - echo "$GREETING from $CI_JOB_NAME of $CI_PROJECT_PATH; kubeconfig '$KUBECONFIG' it's fine"
    - cat file.txt
deploy:
  stage: deploy
  environment:
    name: review/$CI_COMMIT_REF_SLUG
    url: https://$CI_ENVIRONMENT_SLUG.test
    kubernetes:
      agent: acme/infra:edge
  before_script: echo before
  script: |
    echo "env $CI_ENVIRONMENT_NAME $CI_ENVIRONMENT_TIER $CI_ENVIRONMENT_URL"
    echo "token $CI_JOB_TOKEN"
    cat $KUBECONFIG
    echo "protected $CI_COMMIT_REF_PROTECTED"
`

func ciProject(t *testing.T, g *GitLab, yaml string) {
	t.Helper()
	must(t)(g.Commit(t.Context(), "acme/team/shop", "", map[string]string{".gitlab-ci.yml": yaml, "file.txt": "content\n"}))
}

func TestRunner(t *testing.T) {
	g := start(t, Config{})
	ciProject(t, g, ciYAML)
	g.configure(t, edgeID, `{"ci_access":{"projects":[{"id":"acme/team/shop","environments":["review/*"]}]}}`)
	var live strings.Builder
	r := &Runner{GitLab: g, Out: &live}
	pipeline, err := r.Run(t.Context(), PipelineRequest{Project: "acme/team/shop", User: "ci-user", JobIDs: map[string]int64{"deploy": 77}})
	check(t, err)
	if len(pipeline.Jobs) != 2 || pipeline.Jobs[1].Job.ID != 77 {
		t.Fatalf("%+v", pipeline)
	}
	prepare, deploy := pipeline.Jobs[0].Log, pipeline.Jobs[1].Log
	for _, want := range []string{"hello from prepare of acme/team/shop; kubeconfig '' it's fine", "content\n", "$ cat file.txt\n"} {
		if !strings.Contains(prepare, want) {
			t.Errorf("no %q in\n%s", want, prepare)
		}
	}
	for _, want := range []string{
		"before\n", "env review/main development https://review-main-", "token [MASKED]\n", "token: ci:7:[MASKED]\n", "name: acme/infra:edge\n", "protected true\n",
	} {
		if !strings.Contains(deploy, want) {
			t.Errorf("no %q in\n%s", want, deploy)
		}
	}
	if live.String() != prepare+deploy {
		t.Errorf("live:\n%s", &live)
	}
	if entries, err := os.ReadDir(g.path("builds/77/acme/team")); err != nil || len(entries) != 1 {
		t.Errorf("file variables are left: %v, %v", entries, err)
	}
	wantStatus(t, g.ask(t, "GET", "/api/v4/job", map[string][]string{"Job-Token": {pipeline.Jobs[1].Job.Token}}, nil), 401)
}

func TestRunner_OwnKubeconfigWins(t *testing.T) {
	g := start(t, Config{})
	g.configure(t, edgeID, `{"ci_access":{"projects":[{"id":"acme/team/shop"}]}}`)
	ciProject(t, g, "variables: {KUBECONFIG: /mine}\nx: {script: 'echo $KUBECONFIG'}\n")
	pipeline, err := (&Runner{GitLab: g}).Run(t.Context(), PipelineRequest{Project: "acme/team/shop", User: "ci-user"})
	if err != nil || !strings.Contains(pipeline.Jobs[0].Log, "\n/mine\n") {
		t.Errorf("%v: %+v", err, pipeline)
	}
}

func TestRunner_Failure(t *testing.T) {
	g := start(t, Config{})
	ciProject(t, g, `
soft: {stage: build, script: [exit 4], allow_failure: true}
hard: {stage: test, script: [echo first, exit 3, echo never], after_script: [echo after]}
last: {stage: deploy, script: [echo never]}
`)
	pipeline, err := (&Runner{GitLab: g}).Run(t.Context(), PipelineRequest{Project: "acme/team/shop", User: "ci-user"})
	if !errors.Is(err, ErrJobFailed) || len(pipeline.Jobs) != 2 || pipeline.Jobs[1].ExitCode != 3 ||
		pipeline.Jobs[1].Log != "$ echo first\nfirst\n$ exit 3\n$ echo after\nafter\n" {
		t.Errorf("%v: %+v", err, pipeline)
	}
}

func TestRunner_BadFiles(t *testing.T) {
	g := start(t, Config{})
	for name, yaml := range map[string]string{
		"no mapping":     "[]",
		"no YAML":        "{",
		"no jobs":        "stages: [a]",
		"no script":      "x: {stage: test}",
		"unknown key":    "x: {script: [a], rules: [b]}",
		"unknown stage":  "x: {script: [a], stage: nope}",
		"include":        "include: [a]",
		"stop action":    "x: {script: [a], environment: {name: a, action: stop}}",
		"numbered stage": "stages: {a: b}",
	} {
		t.Run(name, func(t *testing.T) {
			ciProject(t, g, yaml)
			if _, err := (&Runner{GitLab: g}).Run(t.Context(), PipelineRequest{Project: "acme/team/shop", User: "ci-user"}); err == nil {
				t.Error("no error")
			}
		})
	}
	for name, request := range map[string]PipelineRequest{
		"project": {Project: "no/such", User: "ci-user"}, "ref": {Project: "acme/team/shop", Ref: "none", User: "ci-user"},
	} {
		if _, err := (&Runner{GitLab: g}).Run(t.Context(), request); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSlugs(t *testing.T) {
	for name, want := range map[string]string{"production": "production", "prod": "prod"} {
		if got := slugOf(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	seen := map[string]bool{}
	for _, name := range []string{"review/feature-1", "review-feature-1", "Review/Feature-1", "1st", strings.Repeat("long", 20), strings.Repeat("long", 21)} {
		slug := slugOf(name)
		if len(slug) > 24 || slug[0] < 'a' || seen[slug] {
			t.Errorf("%s: %s", name, slug)
		}
		seen[slug] = true
	}
	for name, want := range map[string]string{"production": "production", "Live": "production", "review/x": "development", "stg": "staging", "QA": "testing", "eu": "other"} {
		if got := guessTier(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
