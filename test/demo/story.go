package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/kube"
	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/narrator"
)

// stepLimit bounds every step of the job; what is built beforehand may take as long as it takes.
const stepLimit = time.Minute

// story is the demo: what is up so far, and who tells it.
type story struct {
	narrator *narrator.Narrator
	cluster  *kube.ControlPlane
	line     *line.Line
}

func begin(n *narrator.Narrator) narrator.Story { return &story{narrator: n} }

// Tell implements narrator.Story.
func (s *story) Tell(ctx context.Context) error {
	s.narrator.Printf("kubectl in a CI job -> kas -> WebSocket -> agentk -> a Kubernetes API server\n")
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"Build what is missing: Kubernetes once per machine (up to five minutes on two cores), kas and agentk", s.build},
		{"Start etcd and kube-apiserver; its administrator lets jobs of project acme/shop deploy to namespace shop", s.startCluster},
		{"Push .gitlab/agents/demo/config.yaml with git, start kas beside no GitLab (section standalone), write kubeconfigs", s.startKas},
		{"Start agentk: it dials kas over ws:// and may do nothing in the cluster but impersonate", s.startAgent},
		{"The job finds a context for every agent it may use", s.contexts},
		{"Who the job is in the cluster: kas made this identity out of job, project and environment", s.whoami},
		{"The job deploys", s.apply},
		{"The job reads what it deployed", s.get},
		{"A watch of the job sees a change", s.watch},
		{"The job deletes what it deployed", s.remove},
		{"What RBAC does not grant is denied, to the job by its name", s.denied},
		{"Project acme/intern is not in the agent's configuration: no kubeconfig, and one made by hand is refused", s.notAllowed},
		{"Add acme/intern with a git push: it takes effect without a restart", s.change},
	} {
		if err := s.narrator.Step(ctx, step.what, step.do); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) build(ctx context.Context) error {
	if _, err := kube.Binaries(ctx); err != nil {
		return err
	}
	_, err := line.Build(ctx)
	return err
}

func (s *story) startCluster(ctx context.Context) error {
	var err error
	if s.cluster, err = kube.Start(ctx, kube.Config{}); err != nil {
		return err
	}
	return s.cluster.Apply(ctx, jobRights)
}

func (s *story) startKas(ctx context.Context) error {
	var err error
	s.line, err = line.Start(ctx, line.Config{
		ControlPlane: s.cluster,
		Projects: []line.Project{
			{ID: infraID, Path: "acme/infra", Groups: []line.Group{{ID: acmeID, Path: "acme"}}},
			{ID: shopID, Path: "acme/shop", Groups: []line.Group{{ID: acmeID, Path: "acme"}}},
			{ID: internID, Path: "acme/intern", Groups: []line.Group{{ID: acmeID, Path: "acme"}}},
		},
		Agents: []line.Agent{{ID: agentID, Name: agentName, Project: "acme/infra", Config: agentConfig, Manual: true}},
		Jobs: []line.Job{
			{
				ID: shopJob, Project: "acme/shop", User: "ci-user",
				Environment: &line.Environment{Name: "production", Slug: "production", Tier: "production"},
			},
			{ID: internJob, Project: "acme/intern", User: "ci-intern", Denied: true},
		},
	})
	if err != nil {
		return err
	}
	s.narrator.Output(agentConfig)
	s.narrator.Command("kas", "--configuration-file", s.line.KasFile)
	return nil
}

func (s *story) startAgent(ctx context.Context) error {
	s.narrator.Command("agentk", "--kas-address", s.line.KasAddress(), "--token-file ... --kubeconfig ...")
	return s.line.StartAgent(ctx, agentName)
}

func (s *story) contexts(ctx context.Context) error {
	if err := s.kubectl(ctx, "config get-contexts", shopContext); err != nil {
		return err
	}
	return s.kubectl(ctx, "config use-context "+shopContext, shopContext)
}

func (s *story) whoami(ctx context.Context) error {
	return s.kubectl(ctx, "auth whoami", shopUser, "gitlab:ci_job", "gitlab:group:5", "gitlab:group_env_tier:5:production",
		"gitlab:project:42", "gitlab:project_env:42:production", "gitlab:project_env_tier:42:production",
		"agent.gitlab.com/id", "agent.gitlab.com/ci_pipeline_id", "agent.gitlab.com/username", "ci-user")
}

func (s *story) apply(ctx context.Context) error {
	return s.applyRelease(ctx, 1, "configmap/release created")
}

func (s *story) applyRelease(ctx context.Context, version int, want string) error {
	manifest := fmt.Sprintf(release, version)
	s.narrator.Command("kubectl", "apply -f - <<< '"+manifest+"'")
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	out, err := s.line.Apply(ctx, shopJob, manifest)
	return s.expect(out, err, want)
}

func (s *story) get(ctx context.Context) error {
	return s.kubectl(ctx, "get configmap release -o yaml", `version: "1"`, "namespace: shop")
}

func (s *story) remove(ctx context.Context) error {
	return s.kubectl(ctx, "delete configmap release", "deleted")
}

func (s *story) denied(ctx context.Context) error {
	return s.refused(ctx, shopJob, "get secrets --namespace kube-system", "Forbidden", `User "`+shopUser+`" cannot list resource "secrets"`)
}

func (s *story) notAllowed(ctx context.Context) error {
	s.narrator.Command("kas", "standalone kubeconfig --job 9002 --configuration-file", s.line.KasFile)
	err := s.line.WriteKubeconfigFor(ctx, internJob)
	if err == nil {
		return errors.New("kas wrote a kubeconfig for a job that may use no agent")
	}
	if err := s.expectRefusal(err, "may use no agent"); err != nil {
		return err
	}
	return s.refused(ctx, internJob, "get --raw /version", "agentId is not allowed")
}

func (s *story) change(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	s.narrator.Command("git", "push  # adds acme/intern to ci_access")
	commit, err := s.line.PushConfig(ctx, agentName, widerConfig)
	if err != nil {
		return err
	}
	pushed := time.Now()
	err = line.Wait(ctx, func(ctx context.Context) error { return s.line.WriteKubeconfigFor(ctx, internJob) })
	if err != nil {
		return err
	}
	var out string
	err = line.Wait(ctx, func(ctx context.Context) error {
		out, err = s.line.Kubectl(ctx, internJob, "auth", "whoami")
		return err
	})
	took := time.Since(pushed)
	s.narrator.Command("kubectl", "auth whoami")
	if err := s.expect(out, err, "gitlab:ci_job:9002", "gitlab:project:43", "ci-intern"); err != nil {
		return err
	}
	applied, err := line.WaitLog(ctx, func() string { return s.line.AgentLog(agentName) }, commit)
	if err != nil {
		return err
	}
	s.narrator.Output(fmt.Sprintf("in effect %.1f s after the push; agentk says:\n%s", took.Seconds(), applied))
	return nil
}

// kubectl runs kubectl in the job of acme/shop, shows what it says and checks that some texts are in it.
func (s *story) kubectl(ctx context.Context, args string, want ...string) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	s.narrator.Command("kubectl", args)
	out, err := s.line.Kubectl(ctx, shopJob, strings.Fields(args)...)
	return s.expect(out, err, want...)
}

func (s *story) expect(out string, err error, want ...string) error {
	if err != nil {
		return err
	}
	s.narrator.Output(out)
	for _, text := range want {
		if !strings.Contains(out, text) {
			return fmt.Errorf("it does not say %q", text)
		}
	}
	return nil
}

// refused runs kubectl in a job and wants it to fail with some words.
func (s *story) refused(ctx context.Context, job int64, args string, want ...string) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	s.narrator.Command("kubectl", args)
	out, err := s.line.Kubectl(ctx, job, strings.Fields(args)...)
	if err == nil {
		return fmt.Errorf("this was allowed:\n%s", out)
	}
	return s.expectRefusal(err, want...)
}

func (s *story) expectRefusal(err error, want ...string) error {
	var failed *line.CommandError
	if !errors.As(err, &failed) {
		return err
	}
	s.narrator.Output(failed.Stderr)
	for _, text := range want {
		if !strings.Contains(failed.Stderr, text) {
			return fmt.Errorf("it does not say %q", text)
		}
	}
	return nil
}
