package identity

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

const extraPrefix = "agent.gitlab.com/"

// AccessType is the way a user proves who they are; it becomes an extra of their identity.
type AccessType string

// Ways of user access.
const (
	SessionCookie       AccessType = "session_cookie"
	PersonalAccessToken AccessType = "personal_access_token"
)

var errNoMode = errors.New("access_as has no mode that this version knows")

// ForJob returns the identity of a CI job at one of its allowed agents. nil without an error is the agent's own account.
func ForJob(agent *gitlabapi.AllowedAgent, a *gitlabapi.AllowedAgentsForJob) (*kubernetesapi.ImpersonationConfig, error) {
	accessAs := agent.GetConfiguration().GetAccessAs()
	if accessAs == nil {
		return nil, nil
	}
	var c *kubernetesapi.ImpersonationConfig
	switch as := accessAs.GetAs().(type) {
	case *agentcfg.CiAccessAsCF_Agent:
		return nil, nil
	case *agentcfg.CiAccessAsCF_Impersonate:
		c = static(as.Impersonate)
	case *agentcfg.CiAccessAsCF_CiJob:
		if agent.GetConfigProject() == nil || a.GetJob() == nil || a.GetPipeline() == nil || a.GetProject() == nil || a.GetUser() == nil {
			return nil, errors.New("the description of the job is incomplete")
		}
		c = ciJob(agent, a)
	default:
		return nil, errNoMode
	}
	return c, check(c)
}

// ForUser returns the identity of a user. nil without an error is the agent's own account.
func ForUser(a *gitlabapi.AuthorizeProxyUserResponse, by AccessType) (*kubernetesapi.ImpersonationConfig, error) {
	switch as := a.GetAccessAs().GetAccessAs().(type) {
	case *gitlabapi.AccessAsProxyAuthorization_Agent:
		return nil, nil
	case *gitlabapi.AccessAsProxyAuthorization_User:
		if a.GetAgent().GetConfigProject() == nil || a.GetUser().GetUsername() == "" {
			return nil, errors.New("the description of the user is incomplete")
		}
		c := user(a, as.User, by)
		return c, check(c)
	default:
		return nil, errNoMode
	}
}

func static(i *agentcfg.CiAccessAsImpersonateCF) *kubernetesapi.ImpersonationConfig {
	c := &kubernetesapi.ImpersonationConfig{Username: i.GetUsername(), Groups: i.GetGroups(), Uid: i.GetUid()}
	for _, e := range i.GetExtra() {
		c.Extra = append(c.Extra, &kubernetesapi.ExtraKeyVal{Key: e.GetKey(), Val: e.GetVal()})
	}
	return c
}

func ciJob(agent *gitlabapi.AllowedAgent, a *gitlabapi.AllowedAgentsForJob) *kubernetesapi.ImpersonationConfig {
	job, project, env := id(a.GetJob().GetId()), id(a.GetProject().GetId()), a.GetEnvironment()
	groups := []string{"gitlab:ci_job"}
	for _, g := range a.GetProject().GetGroups() {
		groups = append(groups, "gitlab:group:"+id(g.GetId()))
		if env != nil {
			groups = append(groups, "gitlab:group_env_tier:"+id(g.GetId())+":"+env.GetTier())
		}
	}
	groups = append(groups, "gitlab:project:"+project)
	extras := []*kubernetesapi.ExtraKeyVal{
		extraOf("id", id(agent.GetId())),
		extraOf("config_project_id", id(agent.GetConfigProject().GetId())),
		extraOf("project_id", project),
		extraOf("ci_pipeline_id", id(a.GetPipeline().GetId())),
		extraOf("ci_job_id", job),
		extraOf("username", a.GetUser().GetUsername()),
	}
	if env != nil {
		groups = append(groups, "gitlab:project_env:"+project+":"+env.GetSlug(), "gitlab:project_env_tier:"+project+":"+env.GetTier())
		extras = append(extras, extraOf("environment_slug", env.GetSlug()), extraOf("environment_tier", env.GetTier()))
	}
	return &kubernetesapi.ImpersonationConfig{Username: "gitlab:ci_job:" + job, Groups: groups, Extra: extras}
}

func user(a *gitlabapi.AuthorizeProxyUserResponse, as *gitlabapi.AccessAsUserAuthorization, by AccessType) *kubernetesapi.ImpersonationConfig {
	groups := []string{"gitlab:user"}
	for _, p := range as.GetProjects() {
		for _, role := range p.GetRoles() {
			groups = append(groups, "gitlab:project_role:"+id(p.GetId())+":"+role)
		}
	}
	for _, g := range as.GetGroups() {
		for _, role := range g.GetRoles() {
			groups = append(groups, "gitlab:group_role:"+id(g.GetId())+":"+role)
		}
	}
	name := a.GetUser().GetUsername()
	return &kubernetesapi.ImpersonationConfig{
		Username: "gitlab:user:" + name,
		Groups:   groups,
		Extra: []*kubernetesapi.ExtraKeyVal{
			extraOf("id", id(a.GetAgent().GetId())),
			extraOf("username", name),
			extraOf("access_type", string(by)),
			extraOf("config_project_id", id(a.GetAgent().GetConfigProject().GetId())),
		},
	}
}

func id(n int64) string { return strconv.FormatInt(n, 10) }

func extraOf(key, val string) *kubernetesapi.ExtraKeyVal {
	return &kubernetesapi.ExtraKeyVal{Key: extraPrefix + key, Val: []string{val}}
}

// check refuses names that would not arrive at the API server as they are.
func check(c *kubernetesapi.ImpersonationConfig) error {
	if err := checkName("username", c.GetUsername()); err != nil {
		return err
	}
	if c.GetUid() != "" {
		if err := checkName("uid", c.GetUid()); err != nil {
			return err
		}
	}
	for _, g := range c.GetGroups() {
		if err := checkName("group", g); err != nil {
			return err
		}
	}
	for _, e := range c.GetExtra() {
		if err := checkName("extra key", e.GetKey()); err != nil {
			return err
		}
		if len(e.GetVal()) == 0 {
			return fmt.Errorf("impersonation extra %q has no value", e.GetKey())
		}
		for _, v := range e.GetVal() {
			if err := checkName("extra value", v); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("impersonation %s is empty", what)
	case strings.TrimSpace(name) != name, strings.ContainsFunc(name, isControl):
		return fmt.Errorf("impersonation %s %q has control characters or white space at an end", what, name)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
