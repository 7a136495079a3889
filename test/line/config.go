package line

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/kube"
)

// Schemes of the agent's way to kas.
const (
	WS    = "ws"
	WSS   = "wss"
	GRPC  = "grpc"
	GRPCS = "grpcs"
)

// Config says what a line consists of. Only ControlPlane is required; the zero value of the rest is one agent ("demo" of project
// acme/infra) reached over ws://, and one job (9001 of project acme/shop) that may use it as itself (access_as: ci_job).
type Config struct {
	// ControlPlane is the cluster of all agents. The line neither starts nor stops it.
	ControlPlane *kube.ControlPlane
	// Scheme of the agents' way to kas: WS (default), WSS, GRPC or GRPCS.
	Scheme string
	// Projects are those whose ids matter. Every project that an agent or a job names and that is not here gets ids by itself.
	Projects []Project
	Agents   []Agent
	Jobs     []Job
	// ExtraKasYAML is merged over the kas configuration file, key by key; lists are replaced.
	ExtraKasYAML string
	// Replicas says what is special about each kas; empty: there is one, and nothing.
	Replicas []ReplicaConfig
	// ProxyFront is host:port at which jobs reach the Kubernetes proxy, when something stands in front of it. Empty: nothing does.
	ProxyFront string
	// Host is the address kas listens on, by default 127.0.0.1. Hosts are further names for its certificates.
	Host  string
	Hosts []string
	// PlainProxy: the Kubernetes proxy speaks no TLS. kubectl sends no token then; for plain HTTP clients and benchmarks.
	PlainProxy bool
	// Dir receives everything and is kept by Stop; empty: a temporary folder that Stop removes.
	Dir string
	// Binaries are by default those that Build makes.
	Binaries Binaries
}

// Project is a project of the standalone backend.
type Project struct {
	ID         int64
	Path       string
	Groups     []Group // by default its parents, numbered
	Visibility string
}

// Group is a group around projects.
type Group struct {
	ID   int64
	Path string
}

// Power says what an agent's own ServiceAccount may do in the cluster.
type Power int

const (
	// Impersonate: its account may impersonate users and groups and extras of GitLab, and nothing else.
	Impersonate Power = iota
	// TokenOnly: its account may do nothing but take the token of a second account, which may impersonate and nothing else.
	TokenOnly
	// None: its account may do nothing in the cluster.
	None
)

// Agent is an agent and its process.
type Agent struct {
	ID            int64
	Name, Project string
	// Config is the first content of its configuration file; empty: there is none. See PushConfig.
	Config string
	Power  Power
	// PodOf names another agent of this line, before this one: then this is one more process of that agent. It takes ID, Project, Token and
	// Power from there, and the cluster sees the same account.
	PodOf string
	// ClusterRole is bound to the agent's own account besides, for example cluster-admin; empty: none.
	ClusterRole string
	// Token is by default a random one. Revoked: kas does not know it.
	Token   string
	Revoked bool
	// GitOpsProjects are those it may read manifests from, besides its own and public ones. They get repositories.
	GitOpsProjects []string
	// KasAddress is by default that of kas itself. Args and Env are added to the agent's flags and environment.
	KasAddress string
	Args, Env  []string
	// Wrap is a command that runs agentk, with the program and its arguments after its own; it has to end in an exec. Empty: none.
	Wrap []string
	// Manual: Start does not start it, StartAgent does.
	Manual bool
}

// Job is a CI job.
type Job struct {
	ID, Pipeline int64
	Project      string
	Environment  *Environment
	User         string
	RefProtected bool
	ExpiresAt    time.Time // zero: never
	// Token is by default a random one.
	Token string
	// Denied: kas has no kubeconfig for this job. It gets one made by hand that names all agents, as somebody would who tries.
	Denied bool
}

// Environment is where a job deploys to.
type Environment struct{ Name, Slug, Tier string }

// CIAccess is a configuration file that lets the jobs of some projects in under an access_as mode, for example "{ci_job: {}}".
func CIAccess(accessAs string, projects ...string) string {
	var b strings.Builder
	b.WriteString("ci_access:\n  projects:\n")
	for _, p := range projects {
		fmt.Fprintf(&b, "  - id: %s\n    access_as: %s\n", p, accessAs)
	}
	return b.String()
}

func (c *Config) complete() error {
	if c.ControlPlane == nil {
		return errors.New("line: a control plane is required")
	}
	if c.Scheme == "" {
		c.Scheme = WS
	}
	if !slices.Contains([]string{WS, WSS, GRPC, GRPCS}, c.Scheme) {
		return fmt.Errorf("line: unknown scheme %q", c.Scheme)
	}
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if len(c.Replicas) == 0 {
		c.Replicas = make([]ReplicaConfig, 1)
	}
	c.Projects, c.Agents, c.Jobs = slices.Clone(c.Projects), slices.Clone(c.Agents), slices.Clone(c.Jobs)
	if c.Agents == nil {
		c.Agents = []Agent{{ID: 7, Name: "demo", Project: "acme/infra", Config: CIAccess("{ci_job: {}}", "acme/shop")}}
	}
	if c.Jobs == nil {
		c.Jobs = []Job{{
			ID: 9001, Pipeline: 801, Project: "acme/shop", User: "ci-user",
			Environment: &Environment{Name: "production", Slug: "production", Tier: "production"},
		}}
	}
	for i := range c.Agents {
		if err := c.completeAgent(i); err != nil {
			return err
		}
	}
	for i := range c.Jobs {
		c.Jobs[i].complete()
	}
	c.addProjects()
	return nil
}

// owner is the agent whose token and account this process has.
func (a *Agent) owner() string {
	if a.PodOf != "" {
		return a.PodOf
	}
	return a.Name
}

func (c *Config) completeAgent(i int) error {
	a := &c.Agents[i]
	if a.Token == "" {
		a.Token = "glagent-" + rand.Text()
	}
	if a.PodOf == "" {
		return nil
	}
	of := slices.IndexFunc(c.Agents[:i], func(other Agent) bool { return other.Name == a.PodOf })
	if of < 0 {
		return fmt.Errorf("line: agent %s is a pod of %s, which is not there", a.Name, a.PodOf)
	}
	a.ID, a.Project, a.Token, a.Power = c.Agents[of].ID, c.Agents[of].Project, c.Agents[of].Token, c.Agents[of].Power
	return nil
}

func (j *Job) complete() {
	if j.Token == "" {
		j.Token = "glcbt-" + rand.Text()
	}
	if j.User == "" {
		j.User = "ci-user"
	}
	if j.Pipeline == 0 {
		j.Pipeline = 801
	}
}

// addProjects names the projects that nobody gave ids, and the groups around them.
func (c *Config) addProjects() {
	paths := map[string]bool{}
	groups := map[string]int64{}
	for _, p := range c.Projects {
		paths[p.Path] = true
		for _, g := range p.Groups {
			groups[g.Path] = g.ID
		}
	}
	var missing []string
	for _, a := range c.Agents {
		missing = append(append(missing, a.Project), a.GitOpsProjects...)
	}
	for _, j := range c.Jobs {
		missing = append(missing, j.Project)
	}
	for _, path := range missing {
		if !paths[path] {
			paths[path] = true
			c.Projects = append(c.Projects, Project{ID: int64(101 + len(c.Projects)), Path: path})
		}
	}
	for i := range c.Projects {
		p := &c.Projects[i]
		if p.Groups != nil {
			continue
		}
		for parent := parentOf(p.Path); parent != ""; parent = parentOf(parent) {
			if groups[parent] == 0 {
				groups[parent] = int64(501 + len(groups))
			}
			p.Groups = append(p.Groups, Group{ID: groups[parent], Path: parent})
		}
	}
}

func parentOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)]
}
