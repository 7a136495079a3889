package identity_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/identity"
)

func job(env *gitlabapi.Environment) *gitlabapi.AllowedAgentsForJob {
	return &gitlabapi.AllowedAgentsForJob{
		Job:         &gitlabapi.Job{Id: 9001},
		Pipeline:    &gitlabapi.Pipeline{Id: 801},
		Project:     &gitlabapi.Project{Id: 42, Groups: []*gitlabapi.Group{{Id: 5}, {Id: 2}}},
		User:        &gitlabapi.User{Id: 3, Username: "ci-user"},
		Environment: env,
	}
}

func agent(as *agentcfg.CiAccessAsCF) *gitlabapi.AllowedAgent {
	return &gitlabapi.AllowedAgent{
		Id: 7, ConfigProject: &gitlabapi.ConfigProject{Id: 31},
		Configuration: &gitlabapi.Configuration{AccessAs: as},
	}
}

func ciJob() *agentcfg.CiAccessAsCF {
	return &agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_CiJob{CiJob: &agentcfg.CiAccessAsCiJobCF{}}}
}

func impersonate(i *agentcfg.CiAccessAsImpersonateCF) *agentcfg.CiAccessAsCF {
	return &agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_Impersonate{Impersonate: i}}
}

func extra(key string, val ...string) *kubernetesapi.ExtraKeyVal {
	return &kubernetesapi.ExtraKeyVal{Key: key, Val: val}
}

func TestForJob(t *testing.T) {
	common := []*kubernetesapi.ExtraKeyVal{
		extra("agent.gitlab.com/id", "7"), extra("agent.gitlab.com/config_project_id", "31"),
		extra("agent.gitlab.com/project_id", "42"), extra("agent.gitlab.com/ci_pipeline_id", "801"),
		extra("agent.gitlab.com/ci_job_id", "9001"), extra("agent.gitlab.com/username", "ci-user"),
	}
	tests := []struct {
		name  string
		agent *gitlabapi.AllowedAgent
		env   *gitlabapi.Environment
		want  *kubernetesapi.ImpersonationConfig
	}{
		{name: "no configuration", agent: &gitlabapi.AllowedAgent{Id: 7}},
		{name: "no access_as", agent: agent(nil)},
		{name: "agent", agent: agent(&agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_Agent{}})},
		{
			name: "impersonate",
			agent: agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{
				Username: "deployer", Groups: []string{"b", "a"}, Uid: "u-1",
				Extra: []*agentcfg.ExtraKeyValCF{{Key: "k/1", Val: []string{"x", "y"}}},
			})),
			want: &kubernetesapi.ImpersonationConfig{
				Username: "deployer", Groups: []string{"b", "a"}, Uid: "u-1",
				Extra: []*kubernetesapi.ExtraKeyVal{extra("k/1", "x", "y")},
			},
		},
		{
			name: "ci_job without environment", agent: agent(ciJob()),
			want: &kubernetesapi.ImpersonationConfig{
				Username: "gitlab:ci_job:9001",
				Groups:   []string{"gitlab:ci_job", "gitlab:group:5", "gitlab:group:2", "gitlab:project:42"},
				Extra:    common,
			},
		},
		{
			name: "ci_job with environment", agent: agent(ciJob()), env: &gitlabapi.Environment{Slug: "prod", Tier: "production"},
			want: &kubernetesapi.ImpersonationConfig{
				Username: "gitlab:ci_job:9001",
				Groups: []string{
					"gitlab:ci_job",
					"gitlab:group:5", "gitlab:group_env_tier:5:production",
					"gitlab:group:2", "gitlab:group_env_tier:2:production",
					"gitlab:project:42", "gitlab:project_env:42:prod", "gitlab:project_env_tier:42:production",
				},
				Extra: append(append([]*kubernetesapi.ExtraKeyVal{}, common...),
					extra("agent.gitlab.com/environment_slug", "prod"), extra("agent.gitlab.com/environment_tier", "production")),
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := identity.ForJob(tt.agent, job(tt.env))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestForJob_Refused(t *testing.T) {
	noJob, noUser := job(nil), job(nil)
	noJob.Job, noUser.User = nil, nil
	tests := []struct {
		name  string
		agent *gitlabapi.AllowedAgent
		job   *gitlabapi.AllowedAgentsForJob
	}{
		{"unknown mode", agent(&agentcfg.CiAccessAsCF{}), job(nil)},
		{"no job", agent(ciJob()), noJob},
		{"no user", agent(ciJob()), noUser},
		{"no config project", &gitlabapi.AllowedAgent{Id: 7, Configuration: &gitlabapi.Configuration{AccessAs: ciJob()}}, job(nil)},
		{"impersonate without user", agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{Groups: []string{"g"}})), job(nil)},
		{"impersonate nobody", agent(impersonate(nil)), job(nil)},
		{"empty group", agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{Username: "u", Groups: []string{""}})), job(nil)},
		{"line break", agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{Username: "u\r\nImpersonate-Group: system:masters"})), job(nil)},
		{"trimmed", agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{Username: " system:admin"})), job(nil)},
		{"extra without value", agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{Username: "u", Extra: []*agentcfg.ExtraKeyValCF{{Key: "k"}}})), job(nil)},
		{"extra without key", agent(impersonate(&agentcfg.CiAccessAsImpersonateCF{Username: "u", Extra: []*agentcfg.ExtraKeyValCF{{Val: []string{"v"}}}})), job(nil)},
		{"slug with line break", agent(ciJob()), job(&gitlabapi.Environment{Slug: "a\nb", Tier: "other"})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := identity.ForJob(tt.agent, tt.job)
			if err == nil {
				t.Fatalf("got %v and no error", got)
			}
		})
	}
}

func TestForUser(t *testing.T) {
	answer := &gitlabapi.AuthorizeProxyUserResponse{
		Agent: &gitlabapi.AuthorizedAgentForUser{Id: 7, ConfigProject: &gitlabapi.ConfigProject{Id: 31}},
		User:  &gitlabapi.User{Id: 3, Username: "ci-user"},
		AccessAs: &gitlabapi.AccessAsProxyAuthorization{AccessAs: &gitlabapi.AccessAsProxyAuthorization_User{
			User: &gitlabapi.AccessAsUserAuthorization{
				Projects: []*gitlabapi.ProjectAccessCF{{Id: 1, Roles: []string{"guest", "developer"}}},
				Groups:   []*gitlabapi.GroupAccessCF{{Id: 2, Roles: []string{"owner"}}},
			},
		}},
	}
	got, err := identity.ForUser(answer, identity.PersonalAccessToken)
	if err != nil {
		t.Fatal(err)
	}
	want := &kubernetesapi.ImpersonationConfig{
		Username: "gitlab:user:ci-user",
		Groups:   []string{"gitlab:user", "gitlab:project_role:1:guest", "gitlab:project_role:1:developer", "gitlab:group_role:2:owner"},
		Extra: []*kubernetesapi.ExtraKeyVal{
			extra("agent.gitlab.com/id", "7"), extra("agent.gitlab.com/username", "ci-user"),
			extra("agent.gitlab.com/access_type", "personal_access_token"), extra("agent.gitlab.com/config_project_id", "31"),
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	answer.AccessAs.AccessAs = &gitlabapi.AccessAsProxyAuthorization_Agent{}
	if got, err := identity.ForUser(answer, identity.SessionCookie); got != nil || err != nil {
		t.Errorf("access_as agent: %v, %v", got, err)
	}
	answer.AccessAs = nil
	if _, err := identity.ForUser(answer, identity.SessionCookie); err == nil {
		t.Error("no mode: no error")
	}
}
