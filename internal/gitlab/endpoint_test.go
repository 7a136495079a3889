package gitlab

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/backend"
)

func wantProject() backend.Project {
	return backend.Project{
		ID: 31, Path: "infra/agents", DefaultBranch: "main",
		Gitaly: &entity.GitalyInfo{Address: "unix:/gitaly.sock", Token: "gitaly-secret", Features: map[string]string{"gitaly-feature-x": "true"}},
		Repository: &entity.GitalyRepository{
			StorageName: "default", RelativePath: "@hashed/ab.git", GlRepository: "project-31", GlProjectPath: "infra/agents",
		},
	}
}

// TestEndpoints holds what goes to GitLab and what is made of a good answer.
func TestEndpoints(t *testing.T) {
	const at = prefix + "/api/v4/internal/kubernetes/"
	want := map[string]struct {
		method, path, query, body string
		value                     any
	}{
		endpointAgentInfo:   {"GET", at + "agent_info", "", "", backend.Agent{ID: 7, Name: "prod", Project: wantProject()}},
		endpointProjectInfo: {"GET", at + "project_info", "id=infra%2Fagents", "", wantProject()},
		endpointAllowedAgents: {"GET", prefix + "/api/v4/job/allowed_agents", "", "", &gitlabapi.AllowedAgentsForJob{
			AllowedAgents: []*gitlabapi.AllowedAgent{
				{Id: 7, ConfigProject: &gitlabapi.ConfigProject{Id: 31}, Configuration: &gitlabapi.Configuration{
					DefaultNamespace: "apps",
					AccessAs:         &agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_CiJob{CiJob: &agentcfg.CiAccessAsCiJobCF{}}},
				}},
				{Id: 8, ConfigProject: &gitlabapi.ConfigProject{Id: 31}, Configuration: &gitlabapi.Configuration{}},
			},
			Job: &gitlabapi.Job{Id: 9001}, Pipeline: &gitlabapi.Pipeline{Id: 801},
			Project: &gitlabapi.Project{Id: 42, Groups: []*gitlabapi.Group{{Id: 5}, {Id: 2}}},
			User:    &gitlabapi.User{Id: 3, Username: "ci-user"}, Environment: &gitlabapi.Environment{Slug: "prod", Tier: "production"},
		}},
		endpointUser: {
			"POST", at + "authorize_proxy_user", "",
			`{"agent_id":"7","access_type":"session_cookie","access_key":"glpat-the-users-secret","csrf_token":"csrf-secret"}`,
			&gitlabapi.AuthorizeProxyUserResponse{
				Agent: &gitlabapi.AuthorizedAgentForUser{Id: 7, ConfigProject: &gitlabapi.ConfigProject{Id: 31}},
				User:  &gitlabapi.User{Id: 3, Username: "ci-user"},
				AccessAs: &gitlabapi.AccessAsProxyAuthorization{AccessAs: &gitlabapi.AccessAsProxyAuthorization_User{
					User: &gitlabapi.AccessAsUserAuthorization{Projects: []*gitlabapi.ProjectAccessCF{{Id: 42, Roles: []string{"guest", "developer"}}}},
				}},
			},
		},
		endpointProjectAccess: {"GET", at + "verify_project_access", "id=infra%2Fagents", "", true},
		endpointConfiguration: {"POST", at + "agent_configuration", "", `{"agent_id":"7","agent_config":{}}`, nil},
		endpointUsage:         {"POST", at + "usage_metrics", "", `{"counters":{"k8s_api_proxy_request":2}}`, nil},
		endpointEvents:        {"POST", at + "agent_events", "", `{"events":{"register_agent_at_kas":[]}}`, nil},
	}
	for _, e := range endpoints() {
		t.Run(e.name, func(t *testing.T) {
			r := newRails(t, e.good())
			got, err := e.call(within(t), r.start())
			if err != nil {
				t.Fatal(err)
			}
			w := want[e.name]
			if diff := cmp.Diff(w.value, got, protocmp.Transform()); diff != "" {
				t.Errorf("value (-want +got):\n%s", diff)
			}
			requests := r.requests()
			if len(requests) != 1 {
				t.Fatalf("%d requests", len(requests))
			}
			s := requests[0]
			if s.method != w.method || s.path != w.path || s.query != w.query || compact(t, s.body) != w.body {
				t.Errorf("got %s %s?%s %s", s.method, s.path, s.query, s.body)
			}
			checkHeader(t, e, s.header)
		})
	}
}

func checkHeader(t *testing.T, e endpoint, h http.Header) {
	t.Helper()
	want := map[string]string{
		"User-Agent": "gitlab-kas/v1/c0ffee", "Accept": "application/json",
		"Authorization": "", "Job-Token": "", "Gitlab-Agent-Api-Request": "", "Gitlab-Agentk-Api-Request": "", "Content-Type": "",
	}
	switch {
	case e.agent:
		want["Gitlab-Agent-Api-Request"], want["Gitlab-Agentk-Api-Request"] = agentToken, agentToken
	case e.name == endpointAllowedAgents:
		want["Job-Token"] = jobToken
	default:
		want["Content-Type"] = "application/json"
	}
	for name, value := range want {
		if got := h.Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
}

func compact(t *testing.T, body string) string {
	t.Helper()
	var out strings.Builder
	if body == "" {
		return ""
	}
	// Key order is kept: GitLab does not care, the reader of this test does.
	inString := false
	for i, b := range []byte(body) {
		if b == '"' && (i == 0 || body[i-1] != '\\') {
			inString = !inString
		}
		if b != ' ' || inString {
			out.WriteByte(b)
		}
	}
	if !json.Valid([]byte(out.String())) {
		t.Fatalf("not JSON: %s", body)
	}
	return out.String()
}

func TestSuccessWithOtherStatus(t *testing.T) {
	for _, e := range endpoints() {
		t.Run(e.name, func(t *testing.T) {
			other := bare(http.StatusOK)
			if e.answer != "" {
				other = text(http.StatusCreated, "application/json; charset=utf-8", e.answer)
			}
			if _, err := e.call(within(t), newRails(t, other).start()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAnotherTokenEachTime: a token that leaks on the way is of no use for the next request.
func TestAnotherTokenEachTime(t *testing.T) {
	r := newRails(t, inTurn(bare(http.StatusInternalServerError), bare(http.StatusNoContent)))
	if err := r.start().PostConfiguration(within(t), 7, nil); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.requests() {
		if err := verify(s.header.Get(headerJWT), keyA); err != nil {
			t.Error(err)
		}
	}
}

func TestPostConfiguration_UserAccessDefault(t *testing.T) {
	r := newRails(t, bare(http.StatusNoContent))
	file := &agentcfg.ConfigurationFile{UserAccess: &agentcfg.UserAccessCF{Projects: []*agentcfg.UserAccessProjectCF{{Id: "a/b"}}}}
	if err := r.start().PostConfiguration(within(t), 7, file); err != nil {
		t.Fatal(err)
	}
	const want = `{"agent_id":"7","agent_config":{"user_access":{"access_as":{"agent":{}},"projects":[{"id":"a/b"}]}}}`
	if got := compact(t, r.requests()[0].body); got != want {
		t.Errorf("got %s", got)
	}
	if file.UserAccess.AccessAs != nil {
		t.Error("the caller's configuration was changed")
	}
}

func TestPostUsage(t *testing.T) {
	r := newRails(t, bare(http.StatusNoContent))
	c := r.start()
	if err := c.PostUsage(within(t), nil, map[string][]int64{}); err != nil || len(r.requests()) != 0 {
		t.Errorf("nothing to count: %v, %d requests", err, len(r.requests()))
	}
	if err := c.PostUsage(within(t), nil, map[string][]int64{"agent_users_using_ci_tunnel": {3, 4}}); err != nil {
		t.Fatal(err)
	}
	if got := r.requests()[0].body; got != `{"unique_counters":{"agent_users_using_ci_tunnel":[3,4]}}` {
		t.Errorf("got %s", got)
	}
}

func TestOverCap(t *testing.T) {
	file := &agentcfg.ConfigurationFile{CiAccess: &agentcfg.CiAccessCF{}, UserAccess: &agentcfg.UserAccessCF{}}
	for range 500 {
		file.CiAccess.Projects = append(file.CiAccess.Projects, &agentcfg.CiAccessProjectCF{})
		file.CiAccess.Groups = append(file.CiAccess.Groups, &agentcfg.CiAccessGroupCF{})
		file.UserAccess.Groups = append(file.UserAccess.Groups, &agentcfg.UserAccessGroupCF{})
	}
	for _, f := range []*agentcfg.ConfigurationFile{nil, {}, file} {
		if got := OverCap(f); got != nil {
			t.Errorf("got %q", got)
		}
	}
	file.CiAccess.Projects = append(file.CiAccess.Projects, &agentcfg.CiAccessProjectCF{})
	want := []string{"ci_access.projects has 501 entries, GitLab uses 500 of them at most"}
	if diff := cmp.Diff(want, OverCap(file)); diff != "" {
		t.Error(diff)
	}
}
