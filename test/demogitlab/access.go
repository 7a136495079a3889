package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/line"
)

// told passes the log of jobs on, line by line.
type told struct{ story *story }

func (t told) Write(p []byte) (int, error) {
	t.story.narrator.Output(string(p))
	return len(p), nil
}

// environment is that of people and jobs: the cluster's programs, and who signed kas' certificate.
func (s *story) environment() []string {
	return []string{"PATH=" + s.cluster.Bin + ":" + os.Getenv("PATH"), "SSL_CERT_FILE=" + s.line.Authority.File, "KUBERC=off"}
}

// pipeline runs the pipeline of a project and returns what its jobs wrote.
func (s *story) pipeline(ctx context.Context, project string, ids map[string]int64) (*gitlab.Pipeline, error) {
	runner := &gitlab.Runner{GitLab: s.gitlab, Env: s.environment(), Out: told{s}}
	return runner.Run(ctx, gitlab.PipelineRequest{Project: project, User: ciUser, JobIDs: ids})
}

func says(text string, want ...string) error {
	for _, w := range want {
		if !strings.Contains(text, w) {
			return fmt.Errorf("it does not say %q", w)
		}
	}
	return nil
}

func (s *story) deploy(ctx context.Context) error {
	if err := s.push(ctx, shop, map[string]string{".gitlab-ci.yml": shopPipeline, "release.yaml": release}); err != nil {
		return err
	}
	pipeline, err := s.pipeline(ctx, shop, map[string]int64{"deploy": deployJob, "snoop": snoopJob})
	if err != nil {
		return err
	}
	deployed, snooped := pipeline.Jobs[0], pipeline.Jobs[1]
	if snooped.ExitCode == 0 {
		return errors.New("the job could list secrets")
	}
	return errors.Join(
		says(deployed.Log, shopsContext, "gitlab:ci_job:9001", "gitlab:group:5", "gitlab:project:42", "gitlab:project_env:42:production",
			"gitlab:project_env_tier:42:production", ciUser, "configmap/release created", `version: "1"`, "deleted"),
		says(snooped.Log, "Forbidden", `User "gitlab:ci_job:9002" cannot list resource "secrets"`))
}

func (s *story) refused(ctx context.Context) error {
	if err := s.push(ctx, intern, map[string]string{".gitlab-ci.yml": fmt.Sprintf(internPipeline, s.line.ProxyURL, s.agent.ID)}); err != nil {
		return err
	}
	pipeline, err := s.pipeline(ctx, intern, map[string]int64{"deploy": refusedJob})
	if !errors.Is(err, gitlab.ErrJobFailed) {
		return fmt.Errorf("the job did not fail: %w", err)
	}
	return says(pipeline.Jobs[0].Log, "KUBECONFIG is ''", "agentId is not allowed")
}

func (s *story) widen(ctx context.Context) error {
	_, before, _ := s.gitlab.Configuration(s.agent.ID)
	if err := s.push(ctx, infra, map[string]string{".gitlab/agents/demo/config.yaml": widerConfig}); err != nil {
		return err
	}
	pushed := time.Now()
	if _, err := s.awaitPost(ctx, before); err != nil {
		return err
	}
	s.narrator.Output(fmt.Sprintf("in effect %.2f s after the push", time.Since(pushed).Seconds()))
	pipeline, err := s.pipeline(ctx, intern, map[string]int64{"deploy": allowedJob})
	if err != nil {
		return err
	}
	return says(pipeline.Jobs[0].Log, "gitlab:ci_job:9004", "gitlab:project:43")
}

// kubectl runs kubectl as the developer, with a personal access token.
func (s *story) kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.cluster.Bin+"/kubectl", append([]string{
		"--server", s.line.ProxyURL, "--token", fmt.Sprintf("pat:%d:%s", s.agent.ID, s.proxyToken.Value),
	}, args...)...)
	cmd.Env = append(s.environment(), "HOME="+s.dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *story) user(ctx context.Context) error {
	s.narrator.Command("kubectl", fmt.Sprintf("--server %s --token pat:%d:$TOKEN auth whoami", s.line.ProxyURL, s.agent.ID))
	out, err := s.kubectl(ctx, "auth", "whoami")
	s.narrator.Output(out)
	if err != nil {
		return err
	}
	return says(out, "gitlab:user:"+ciUser, "gitlab:project_role:42:developer", "agent.gitlab.com/access_type", "personal_access_token")
}

func (s *story) revoke(ctx context.Context) error {
	if err := s.gitlab.RevokeToken(s.token.ID); err != nil {
		return err
	}
	revoked := time.Now()
	err := line.Wait(ctx, func(ctx context.Context) error {
		agents, err := s.gitlab.Kas().ConnectedAgents(ctx, s.agent.ID)
		if err == nil && len(agents) > 0 {
			err = errors.New("the agent is still connected")
		}
		return err
	})
	if err != nil {
		return err
	}
	said, err := line.WaitLog(ctx, s.line.KasLog, "token is no longer valid")
	if err != nil {
		return err
	}
	s.narrator.Output(fmt.Sprintf("cut off %.1f s after; kas says:\n%s", time.Since(revoked).Seconds(), said))
	// kas would wait longer: an agent may just be reconnecting.
	args := []string{"get", "--raw", "/version", "--request-timeout", "3s"}
	s.narrator.Command("kubectl", args...)
	out, err := s.kubectl(ctx, args...)
	s.narrator.Output(out)
	if err == nil {
		return errors.New("the cluster is still within reach")
	}
	return nil
}
