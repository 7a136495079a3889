package gitaly

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	double "gitlab.com/agentk/agentk/test/gitlab/gitaly"
)

func TestAgentConfigFiles_EveryRelease(t *testing.T) {
	want := []AgentConfigFile{{Path: configPath, Agent: "demo"}, {Path: ".gitlab/agents/other/config.yaml", Agent: "other"}}
	for name, personality := range double.Personalities {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, func(c *double.Config) { c.Personality = personality })
			fixture(b)
			b.repo("empty", "sha1")
			b.repo("empty256", "sha256")
			b.repo("tag", "sha1", commit("refs/tags/v1", add("100644", "a", "a")))
			b.repo("plain", "sha1", commit("refs/heads/main", add("100644", "a", "a")))
			b.repo("file", "sha1", commit("refs/heads/main", add("100644", ".gitlab/agents", "a")))
			b.repo("sha256", "sha256", commit("refs/heads/main", add("100644", configPath, "a")))
			for _, p := range []backend.Project{
				b.project("empty"), b.on("empty", "main"), b.project("empty256"), b.project("tag"), b.project("plain"), b.on("full", "gone"),
				b.on("plain", "main"), b.project("file"),
			} {
				got, err := b.client.AgentConfigFiles(t.Context(), p)
				if err != nil || len(got) != 0 {
					t.Errorf("%s %s: got %v, %v", p.Path, p.DefaultBranch, got, err)
				}
			}
			for _, p := range []backend.Project{b.project("full"), b.on("full", "main"), b.on("full", "feature")} {
				got, err := b.client.AgentConfigFiles(t.Context(), p)
				if err != nil || !cmp.Equal(got, want) {
					t.Errorf("%s: got %v, %v", p.DefaultBranch, got, err)
				}
			}
			got, err := b.client.AgentConfigFiles(t.Context(), b.project("sha256"))
			if err != nil || !cmp.Equal(got, want[:1]) {
				t.Errorf("SHA-256: got %v, %v", got, err)
			}
		})
	}
}

// TestAgentConfigFiles_ReplicaBehind: a node that does not have the commit yet is not believed.
func TestAgentConfigFiles_ReplicaBehind(t *testing.T) {
	b := newBed(t, func(c *double.Config) { c.Praefect = true })
	fixture(b)
	got, err := b.client.AgentConfigFiles(t.Context(), b.on("full", "main"))
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	b.wantCalls("InfoRefsUploadPack", "GetTreeEntries")
	b.repo("plain", "sha1", commit("refs/heads/main", add("100644", "a", "a")))
	if got, err = b.client.AgentConfigFiles(t.Context(), b.on("plain", "main")); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	calls := b.server.Calls("GetTreeEntries")
	if len(calls) != 2 || len(calls[0].Metadata.Get(routeKey)) != 0 || len(calls[1].Metadata.Get(routeKey)) != 1 {
		t.Errorf("calls %v", calls)
	}
}

func TestAgentConfigFiles_ServerTrouble(t *testing.T) {
	b := newBed(t, nil)
	fixture(b)
	for _, code := range []codes.Code{codes.NotFound, codes.Internal, codes.FailedPrecondition, codes.PermissionDenied} {
		b.server.Break(double.Fault{Method: "GetTreeEntries", Code: code, Message: "repository not found"})
		_, err := b.client.AgentConfigFiles(t.Context(), b.on("full", "main"))
		b.wantKind(err, fault.Unavailable)
		b.server.Mend()
	}
}
