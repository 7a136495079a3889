package kas_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/test/gitlab"
)

type objects = grpc.ServerStreamingClient[gitops.ObjectsToSynchronizeResponse]

// manifests opens the stream of a project's YAML files.
func manifests(t *testing.T, conn *grpc.ClientConn, project, has string) objects {
	t.Helper()
	stream, err := gitops.NewGitopsClient(conn).GetObjectsToSynchronize(timeout(t), &gitops.ObjectsToSynchronizeRequest{
		ProjectId: project, CommitId: has, Paths: []*gitops.PathCF{{Path: &gitops.PathCF_Glob{Glob: "**/*.yaml"}}},
	})
	must(t, err)
	return stream
}

// fetched is a whole batch: its commit, and the files as "name=content".
func fetched(stream objects) (commit string, project int64, files string, err error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return commit, project, strings.TrimSpace(files), nil
		}
		if err != nil {
			return commit, project, files, err
		}
		if h := m.GetHeader(); h != nil {
			commit, project = h.CommitId, h.ProjectId
		}
		if o := m.GetObject(); o != nil {
			files += o.Source + "=" + string(o.Data) + " "
		}
	}
}

func TestBeside_Gitops(t *testing.T) {
	b := besideVersion(t, "16.6", "")
	_, err := b.gl.AddProject(t.Context(), gitlab.Project{ID: 11, Path: "acme/public", Visibility: gitlab.Public})
	must(t, err)
	_, err = b.gl.AddProject(t.Context(), gitlab.Project{ID: 12, Path: "acme/private"})
	must(t, err)
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	for _, project := range []struct {
		path string
		id   int64
	}{{"acme/infra", 10}, {"acme/public", 11}} {
		first, err := b.gl.Commit(t.Context(), project.path, "main", map[string]string{"m/a.yaml": "1"})
		must(t, err)
		commit, id, files, err := fetched(manifests(t, conn, project.path, ""))
		if err != nil || commit != first || id != project.id || files != "m/a.yaml=1" {
			t.Fatalf("%s: commit %q of project %d, %q, %v", project.path, commit, id, files, err)
		}
		waiting := manifests(t, conn, project.path, first)
		second, err := b.gl.Commit(t.Context(), project.path, "main", map[string]string{"m/a.yaml": "2"})
		must(t, err)
		commit, _, files, err = fetched(waiting)
		if err != nil || commit != second || files != "m/a.yaml=2" {
			t.Errorf("%s: commit %q, %q, %v", project.path, commit, files, err)
		}
	}
	for _, project := range []string{"acme/private", "acme/none"} {
		_, _, _, err := fetched(manifests(t, conn, project, ""))
		if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "project not found" {
			t.Errorf("%s: %v", project, err)
		}
	}
	b.eventually("GitLab counts", func() bool { return b.gl.Counters()["gitops_sync"] == 4 })
}

// TestBeside_GitopsNewGitLab: of the agent's own project a GitLab has told everything that is needed, also one that does not know
// the question for others any more.
func TestBeside_GitopsNewGitLab(t *testing.T) {
	b := besideGitLab(t, "")
	_, err := b.gl.AddProject(t.Context(), gitlab.Project{ID: 11, Path: "acme/public", Visibility: gitlab.Public})
	must(t, err)
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	if commit, id, _, err := fetched(manifests(t, conn, "Acme/Infra", "")); err != nil || commit == "" || id != 10 {
		t.Errorf("own project: %v", err)
	}
	if _, _, _, err := fetched(manifests(t, conn, "acme/public", "")); status.Code(err) != codes.NotFound {
		t.Errorf("another: %v", err)
	}
}

// TestBeside_GitopsRevoked: a stream that waits for a commit ends as soon as its token is known to be revoked.
func TestBeside_GitopsRevoked(t *testing.T) {
	b := besideGitLab(t, "agent: {info_cache_ttl: 1s, info_cache_error_ttl: 1s}")
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	commit, err := b.gl.Commit(t.Context(), "acme/infra", "main", map[string]string{"a.yaml": "1"})
	must(t, err)
	waiting := manifests(t, conn, "acme/infra", commit)
	must(t, b.gl.RevokeToken(b.token.ID))
	if _, _, _, err := fetched(waiting); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}
