package kas

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/agentauth"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/gitlab"
	gitopsserver "gitlab.com/agentk/agentk/internal/gitops/server"
)

// newGitops makes the service that hands manifests to agents.
func (s *server) newGitops(context.Context) error {
	cf := s.file.Agent.Gitops
	var err error
	s.gitops, err = gitopsserver.New(gitopsserver.Config{
		Auth: s.auth, Token: agentauth.TokenFromContext, AgeLimit: agentauth.AgeLimit,
		Projects: s.world.projects, Repository: s.world.manifests, Pushes: s.store, Changes: s.world.changes,
		ProjectTTL: s.world.projectTTL, ProjectErrorTTL: cf.ProjectInfoCacheErrorTtl.AsDuration(),
		PollPeriod: cf.PollPeriod.AsDuration(),
		Limits: gitopsserver.Limits{
			FileBytes: int64(cf.MaxManifestFileSize), TotalBytes: int64(cf.MaxTotalManifestFileSize),
			Paths: int(cf.MaxNumberOfPaths), Files: int(cf.MaxNumberOfFiles),
		},
		OnSync: s.usage.GitopsSynced, Log: s.named("gitops"), Registerer: s.registry,
	})
	return err
}

// gitopsService is Gitops: it ends a stream as soon as its token is known to be revoked, and leaves the rest to the server.
type gitopsService struct {
	gitops.UnimplementedGitopsServer
	auth   *agentauth.Authenticator
	server *gitopsserver.Server
}

type objectsStream = grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse]

// GetObjectsToSynchronize implements the service.
func (s *gitopsService) GetObjectsToSynchronize(req *gitops.ObjectsToSynchronizeRequest, stream objectsStream) error {
	return inSession(s.auth, stream, func(stream objectsStream) error { return s.server.GetObjectsToSynchronize(req, stream) })
}

// gitlabProjects asks GitLab which projects an agent may read. Of its configuration project GitLab has told everything with the
// agent itself, and still does where it does not know the other question any more.
type gitlabProjects struct{ rails *gitlab.Client }

func (p gitlabProjects) Project(ctx context.Context, agentToken string, agent backend.Agent, id string) (backend.Project, error) {
	if strings.EqualFold(id, agent.Project.Path) || id == strconv.FormatInt(agent.Project.ID, 10) {
		return agent.Project, nil
	}
	return p.rails.ProjectInfo(ctx, agentToken, id)
}
