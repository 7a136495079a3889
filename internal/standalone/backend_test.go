package standalone

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

func allowedIDs(t *testing.T, b *Backend) []int64 {
	t.Helper()
	res, err := b.AllowedAgents(t.Context(), jobToken)
	if err != nil {
		t.Fatal(err)
	}
	ids := []int64{}
	for _, a := range res.AllowedAgents {
		ids = append(ids, a.Id)
	}
	return ids
}

func TestAgentByToken(t *testing.T) {
	b := newTestBackend(t, baseSection(t.TempDir()), nil)
	got, err := b.AgentByToken(t.Context(), agentToken)
	if err != nil {
		t.Fatal(err)
	}
	want := backend.Agent{ID: 7, Name: "edge", Project: backend.Project{ID: 31, Path: "infra/agents"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, token := range []string{"", "x", agentToken + "x", agentToken[1:], jobToken, HashToken(agentToken)} {
		_, err := b.AgentByToken(t.Context(), token)
		wantFault(t, err, fault.Unauthenticated, "unauthenticated", "unknown or revoked")
	}
}

func TestAllowedAgents_WholeAnswer(t *testing.T) {
	root := t.TempDir()
	newGitRepo(t, root, "infra/agents").pushConfig("edge",
		"ci_access: {projects: [{id: infra/team/app, default_namespace: apps, access_as: {ci_job: {}}, environments: ['review/*']}]}")
	b := newTestBackend(t, baseSection(root), nil)
	got, err := b.AllowedAgents(t.Context(), jobToken)
	if err != nil {
		t.Fatal(err)
	}
	want := &gitlabapi.AllowedAgentsForJob{}
	err = protojson.Unmarshal([]byte(`{
		"allowed_agents":[{"id":7,"config_project":{"id":31},"configuration":{"default_namespace":"apps","access_as":{"ci_job":{}}}}],
		"job":{"id":9001},"pipeline":{"id":801},"project":{"id":42,"groups":[{"id":5},{"id":2}]},
		"user":{"id":3,"username":"ci-user"},"environment":{"slug":"review-one-abc","tier":"development"}}`), want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestAllowedAgents_BadToken(t *testing.T) {
	b := newTestBackend(t, baseSection(t.TempDir()), nil)
	for _, token := range []string{"", "x", agentToken, HashToken(jobToken)} {
		_, err := b.AllowedAgents(t.Context(), token)
		wantFault(t, err, fault.Unauthenticated)
		if err.Error() != "HTTP status code: 401 for path /api/v4/job/allowed_agents" {
			t.Errorf("message %q", err)
		}
	}
}

func TestAllowedAgents_Expiry(t *testing.T) {
	root := t.TempDir()
	newGitRepo(t, root, "infra/agents")
	var now atomic.Int64
	at := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	b := newTestBackend(t, baseSection(root)+"  expires_at: 2031-05-01T12:00:00Z\n", func(c *Config) {
		c.Now = func() time.Time { return time.Unix(0, now.Load()) }
	})
	now.Store(at.Add(-time.Nanosecond).UnixNano())
	allowedIDs(t, b)
	now.Store(at.UnixNano())
	_, err := b.AllowedAgents(t.Context(), jobToken)
	wantFault(t, err, fault.Unauthenticated, "401")
}

func TestAllowedAgents_FollowsPushesWithoutRun(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	b := newTestBackend(t, baseSection(root), nil)
	if got := allowedIDs(t, b); len(got) != 0 {
		t.Fatalf("empty repository allows %v", got)
	}
	r.pushConfig("edge", "ci_access: {groups: [{id: infra}]}")
	if diff := cmp.Diff([]int64{7}, allowedIDs(t, b)); diff != "" {
		t.Fatal(diff)
	}
	r.pushConfig("edge", "")
	if got := allowedIDs(t, b); len(got) != 0 {
		t.Fatalf("removed access allows %v", got)
	}
}

func TestAllowedAgents_InvalidConfigKeepsLastGood(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	core, logs := observer.New(zap.InfoLevel)
	b := newTestBackend(t, baseSection(root), func(c *Config) { c.Log = zap.New(core) })
	r.pushConfig("edge", "ci_access: {projects: [{id: infra/team/app}]}")
	allowedIDs(t, b)

	bad := r.pushConfig("edge", "ci_acces: {}")
	for range 3 {
		if diff := cmp.Diff([]int64{7}, allowedIDs(t, b)); diff != "" {
			t.Fatal(diff)
		}
	}
	if logs.Len() != 1 {
		t.Fatalf("%d log lines, want 1: %v", logs.Len(), logs.All())
	}
	if got := logs.All()[0].ContextMap(); got["commit_id"] != bad || got["last_good_kept"] != true {
		t.Errorf("log says %v", got)
	}

	r.pushConfig("edge", "observability: {logging: {level: "+strings.Repeat("x", 200<<10)+"}}")
	if diff := cmp.Diff([]int64{7}, allowedIDs(t, b)); diff != "" {
		t.Fatal(diff)
	}
	r.pushConfig("edge", "ci_access: {}")
	if got := allowedIDs(t, b); len(got) != 0 {
		t.Fatalf("good configuration after bad ones allows %v", got)
	}
}

// An agent restricted for its own project must not become unrestricted because its restriction cannot be read.
func TestAllowedAgents_UnreadableConfigIsNotAnEmptyOne(t *testing.T) {
	section := strings.ReplaceAll(baseSection("ROOT"), "project: infra/agents", "project: infra/team/app")
	tests := map[string]func(t *testing.T, r *gitRepo){
		"invalid": func(_ *testing.T, r *gitRepo) { r.pushConfig("edge", "nonsense: {}") },
		"symbolic link": func(t *testing.T, r *gitRepo) {
			r.write(".gitlab/agents/edge/x", "")
			runGit(t, r.work, "update-index", "--add", "--cacheinfo", "120000,"+runGit(t, r.work, "hash-object", "-w", ".gitlab/agents/edge/x")+",.gitlab/agents/edge/config.yaml")
			runGit(t, r.work, "commit", "--quiet", "--message", "link")
			runGit(t, r.work, "push", "--quiet", "origin", "HEAD:main")
		},
		"repository missing": func(t *testing.T, r *gitRepo) { remove(t, r.bare) },
		"branch missing": func(t *testing.T, r *gitRepo) {
			r.push()
			runGit(t, r.bare, "branch", "--move", "main", "other")
			runGit(t, r.bare, "symbolic-ref", "HEAD", "refs/heads/main")
		},
		"objects missing": func(t *testing.T, r *gitRepo) {
			r.pushConfig("edge", "")
			remove(t, r.bare+"/objects")
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			r := newGitRepo(t, root, "infra/team/app")
			b := newTestBackend(t, strings.ReplaceAll(section, "ROOT", root), nil)
			if diff := cmp.Diff([]int64{7}, allowedIDs(t, b)); diff != "" {
				t.Fatalf("implicit access: %s", diff)
			}
			damage(t, r)
			b = newTestBackend(t, strings.ReplaceAll(section, "ROOT", root), nil)
			if got := allowedIDs(t, b); len(got) != 0 {
				t.Errorf("allows %v", got)
			}
		})
	}
}

func TestAllowedAgents_DamagedRepositoryKeepsLastGood(t *testing.T) {
	root := t.TempDir()
	r := newGitRepo(t, root, "infra/agents")
	r.pushConfig("edge", "ci_access: {groups: [{id: infra}]}")
	b := newTestBackend(t, baseSection(root), nil)
	allowedIDs(t, b)
	overwrite(t, r.bare+"/refs/heads/main", "")
	if diff := cmp.Diff([]int64{7}, allowedIDs(t, b)); diff != "" {
		t.Error(diff)
	}
	remove(t, r.bare)
	if got := allowedIDs(t, b); len(got) != 0 {
		t.Errorf("deleted repository allows %v", got)
	}
}

func TestAllowedAgents_CanceledIsNoAnswer(t *testing.T) {
	root := t.TempDir()
	newGitRepo(t, root, "infra/agents").push()
	b := newTestBackend(t, baseSection(root), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.AllowedAgents(ctx, jobToken)
	wantFault(t, err, fault.Canceled)
}
