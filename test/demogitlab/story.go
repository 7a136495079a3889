package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/narrator"
	"gitlab.com/agentk/agentk/test/redis"
)

// stepLimit bounds every step after the build, which may take as long as it takes.
const stepLimit = 2 * time.Minute

// story is the demo: what is up so far, and who tells it.
type story struct {
	narrator *narrator.Narrator
	dir      string
	cluster  *kube.ControlPlane
	gitlab   *gitlab.GitLab
	redis    *redis.Server
	line     *line.Line
	agent    gitlab.Agent
	token    gitlab.Token
	// apiToken is the maintainer's, proxyToken the developer's for clusters.
	apiToken, proxyToken gitlab.PAT
}

func begin(n *narrator.Narrator) narrator.Story { return &story{narrator: n} }

// Tell implements narrator.Story.
func (s *story) Tell(ctx context.Context) error {
	s.narrator.Printf("git push and CI jobs -> GitLab (a double) <-> kas -> WebSocket -> agentk -> a Kubernetes API server\n")
	for _, step := range []struct {
		what  string
		do    func(context.Context) error
		limit time.Duration
	}{
		{"Build what is missing: Kubernetes once per machine (up to five minutes on two cores), kas and agentk", s.build, time.Hour},
		{"Start etcd and kube-apiserver; its administrator lets jobs of project acme/shop deploy to namespace shop", s.startCluster, stepLimit},
		{"Start GitLab with Gitaly; a maintainer registers agent demo in acme/infra and makes a token", s.startGitLab, stepLimit},
		{"Start kas beside it, with sections gitlab, redis, api and private_api", s.startKas, stepLimit},
		{"git push of .gitlab/agents/demo/config.yaml to GitLab", s.configure, stepLimit},
		{"Start agentk with the token: it gets its configuration, GitLab gets it from kas, and shows the agent as connected", s.startAgent, stepLimit},
		{"GitLab asks kas: its version, connected agents, agents with a configuration file", s.askKas, stepLimit},
		{"git push of .gitlab-ci.yml: a runner deploys with the injected KUBECONFIG, as this very job; what RBAC does not grant is denied", s.deploy, stepLimit},
		{"A job of acme/intern, which the configuration does not name, gets no KUBECONFIG and is refused", s.refused, stepLimit},
		{"git push adds acme/intern: GitLab notifies kas, and its next job is let in", s.widen, stepLimit},
		{"A developer uses kubectl with a personal access token, under a name of their own", s.user, stepLimit},
		{"The maintainer revokes the agent's token: its cluster is out of reach", s.revoke, stepLimit},
	} {
		bounded := func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, step.limit)
			defer cancel()
			return step.do(ctx)
		}
		if err := s.narrator.Step(ctx, step.what, bounded); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) build(ctx context.Context) error {
	var err error
	if s.dir, err = os.MkdirTemp("", "demo-"); err != nil {
		return err
	}
	if _, err := kube.Binaries(ctx); err != nil {
		return err
	}
	_, err = line.Build(ctx)
	return err
}

func (s *story) startCluster(ctx context.Context) error {
	var err error
	if s.cluster, err = kube.Start(ctx, kube.Config{}); err != nil {
		return err
	}
	return s.cluster.Apply(ctx, jobRights)
}

func (s *story) startGitLab(ctx context.Context) error {
	var err error
	s.gitlab, err = gitlab.Start(ctx, gitlab.Config{Settings: gitlab.Settings{Tier: gitlab.Premium}})
	if err != nil {
		return err
	}
	if err := s.fill(ctx); err != nil {
		return err
	}
	s.narrator.Command("curl", "--request POST", s.gitlab.URL+"/api/v4/projects/acme%2Finfra/cluster_agents", "--json '"+`{"name": "demo"}`+"'")
	var agent struct {
		ID int64 `json:"id"`
	}
	if err := s.post(ctx, "/projects/acme%2Finfra/cluster_agents", `{"name": "demo"}`, &agent); err != nil {
		return err
	}
	s.agent = gitlab.Agent{ID: agent.ID, Name: agentName, Project: infra}
	var token struct {
		ID    int64  `json:"id"`
		Token string `json:"token"`
	}
	if err := s.post(ctx, fmt.Sprintf("/projects/acme%%2Finfra/cluster_agents/%d/tokens", agent.ID), `{"name": "first"}`, &token); err != nil {
		return err
	}
	s.token = gitlab.Token{ID: token.ID, Value: token.Token}
	s.narrator.Output(fmt.Sprintf("agent %d has a token", agent.ID))
	return nil
}

// fill adds people and projects.
func (s *story) fill(ctx context.Context) error {
	g := s.gitlab
	if _, err := g.AddGroup(gitlab.Group{ID: acmeID, Path: "acme"}); err != nil {
		return err
	}
	for _, p := range []gitlab.Project{{ID: infraID, Path: infra}, {ID: shopID, Path: shop}, {ID: internID, Path: intern}} {
		if _, err := g.AddProject(ctx, p); err != nil {
			return err
		}
	}
	for name, role := range map[string]gitlab.Role{maintainer: gitlab.Maintainer, ciUser: gitlab.Developer} {
		if _, err := g.AddUser(gitlab.User{Username: name}); err != nil {
			return err
		}
		if err := g.AddMember(name, "acme", role); err != nil {
			return err
		}
	}
	var err error
	if s.apiToken, err = g.AddPAT(gitlab.PAT{Username: maintainer, Scopes: []string{"api"}}); err != nil {
		return err
	}
	s.proxyToken, err = g.AddPAT(gitlab.PAT{Username: ciUser, Scopes: []string{"k8s_proxy"}})
	return err
}

func (s *story) startKas(ctx context.Context) error {
	api := filepath.Join(s.dir, "api.sock")
	dir := filepath.Join(s.dir, "redis")
	err := os.Mkdir(dir, 0o700)
	if err != nil {
		return err
	}
	if s.redis, err = redis.Start(ctx, redis.Config{Dir: dir}); err != nil {
		return err
	}
	s.line, err = line.Start(ctx, line.Config{
		ControlPlane: s.cluster, Dir: filepath.Join(s.dir, "line"), Jobs: []line.Job{},
		Agents:       []line.Agent{{ID: s.agent.ID, Name: agentName, Project: infra, Token: s.token.Value, Manual: true}},
		ExtraKasYAML: fmt.Sprintf(besideGitLab, s.gitlab.URL, s.gitlab.SecretFile, api, filepath.Join(s.dir, "private.sock"), s.redis.Address()),
	})
	if err != nil {
		return err
	}
	s.narrator.Command("kas", "--configuration-file", s.line.KasFile)
	s.gitlab.Change(func(settings *gitlab.Settings) {
		settings.Kas = gitlab.KasSettings{InternalURL: "unix://" + api, ExternalURL: s.line.KasAddress(), ExternalK8sProxyURL: s.line.ProxyURL}
	})
	return nil
}

func (s *story) configure(ctx context.Context) error {
	s.narrator.Output(agentConfig)
	return s.push(ctx, infra, map[string]string{".gitlab/agents/demo/config.yaml": agentConfig})
}

func (s *story) startAgent(ctx context.Context) error {
	s.narrator.Command("agentk", "--kas-address", s.line.KasAddress(), "--token-file ... --kubeconfig ...")
	if err := s.line.StartAgent(ctx, agentName); err != nil {
		return err
	}
	if _, err := s.awaitPost(ctx, 0); err != nil {
		return err
	}
	if status := s.gitlab.AgentStatus(s.agent.ID); status != "active" {
		return fmt.Errorf("GitLab shows the agent as %s", status)
	}
	s.narrator.Output("GitLab shows the agent as connected")
	return nil
}

// awaitPost waits until kas has posted a configuration more often than before, and returns how often that is.
func (s *story) awaitPost(ctx context.Context, before int) (int, error) {
	var posts int
	err := line.Wait(ctx, func(context.Context) error {
		if _, posts, _ = s.gitlab.Configuration(s.agent.ID); posts <= before {
			return errors.New("kas did not post the agent's configuration")
		}
		return nil
	})
	return posts, err
}

func (s *story) askKas(ctx context.Context) error {
	kas := s.gitlab.Kas()
	info, err := kas.ServerInfo(ctx)
	if err != nil {
		return err
	}
	files, err := kas.AgentConfigFiles(ctx, infra)
	if err != nil {
		return err
	}
	if len(files) != 1 || files[0].GetAgentName() != agentName {
		return fmt.Errorf("agents with a configuration file: %v", files)
	}
	return line.Wait(ctx, func(ctx context.Context) error {
		agents, err := kas.ConnectedAgents(ctx, s.agent.ID)
		if err != nil {
			return err
		}
		if len(agents) != 1 {
			return fmt.Errorf("%d pods of the agent are connected", len(agents))
		}
		s.narrator.Output(fmt.Sprintf("kas %s; pod %s of agent %d runs agentk %s; configuration file %s",
			info.GetVersion(), agents[0].GetAgentMeta().GetPodName(), s.agent.ID, agents[0].GetAgentMeta().GetVersion(), files[0].GetName()))
		return nil
	})
}

func hostOf(url string) string { return strings.TrimPrefix(url, "http://") }
