// Package server is the half of GitOps that runs in kas: the GetObjectsToSynchronize stream, on which an agent gets the files of a
// project's newest commit, once, and then opens the stream anew. The stream waits until there is a commit that the agent does not
// have; mistakes of the user end it with a status that names the file or the limit.
//
// Three rules run through it. An agent gets files only of projects that the outside world lets it read, which is asked at every look.
// A batch is read as a whole before the first message is sent: what cannot be read is an error, and never a batch with less in it,
// because what is missing in a batch is deleted from the cluster. And memory is bounded whatever agents and repositories do: batches
// are shared by the agents that ask for the same, what is being read and sent is taken out of one budget, and whoever does not take
// its batch in time loses it.
package server

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/pushes"
)

const (
	defaultCacheBytes = 64 << 20
	defaultReadBytes  = 256 << 20
	// maxProjectPath is more than any full path of a project has, in bytes.
	maxProjectPath = 8 << 10
)

// Authenticator knows the agent behind an RPC.
type Authenticator interface {
	// Agent resolves the token of the RPC whose context this is. It is asked at every look. Errors are faults.
	Agent(ctx context.Context) (backend.Agent, error)
}

// Projects decides which projects an agent may read.
type Projects interface {
	// Project is the project with the full path id, if the agent may read it. NotFound: it may not, or there is none, which must not
	// be told apart. Unauthenticated and PermissionDenied are refusals, too; any other fault is trouble on the way to an answer.
	Project(ctx context.Context, agentToken string, agent backend.Agent, id string) (backend.Project, error)
}

// Repository reads projects. Errors are faults, or those of the callbacks as they are. FailedPrecondition, InvalidArgument and
// NotFound are the user's to mend; a repository that cannot be read, or is gone, is Unavailable.
type Repository interface {
	// Resolve is the commit of a ref, "" in an empty repository. NotFound: there is no such repository, ref or commit.
	Resolve(ctx context.Context, p backend.Project, ref backend.Ref) (commit string, err error)
	// List visits what is in a folder of a commit ("": the root), and if deep, in all folders below. NotFound: there is no such folder.
	List(ctx context.Context, p backend.Project, commit, dir string, deep bool, visit func(backend.Entry) error) error
	// Blobs gives each of the entries' content once. FailedPrecondition: one has more than limit bytes or is no regular file.
	Blobs(ctx context.Context, p backend.Project, commit string, entries []backend.Entry, limit int64, each func(backend.Entry, []byte) error) error
}

// Changes tells that anything of the backend has changed: the channel is closed at the next change.
type Changes interface {
	Changed() <-chan struct{}
}

// Limits bound one batch. All are positive; exceeding one is the user's mistake.
type Limits struct {
	// FileBytes is the largest file, TotalBytes the most that all files may have together.
	FileBytes, TotalBytes int64
	// Paths is how many globs and file names a request may have, Files how many entries of the repository may be looked at.
	Paths, Files int
}

// Config configures a Server. All fields are required unless they say otherwise.
type Config struct {
	Auth Authenticator
	// Token is the agent token of an RPC.
	Token func(ctx context.Context) string
	// AgeLimit makes of an RPC's context one that also ends when the stream is to end in order and be opened anew: because its
	// connection is old, or because kas stops.
	AgeLimit   func(ctx context.Context) context.Context
	Projects   Projects
	Repository Repository
	Pushes     pushes.Source
	// Changes may be nil.
	Changes Changes
	// ProjectTTL is how long it is believed that an agent may read a project, ProjectErrorTTL that it may not. A ProjectTTL of 0:
	// nothing is remembered.
	ProjectTTL, ProjectErrorTTL time.Duration
	// PollPeriod is how often a ref is looked at when nothing is heard of it.
	PollPeriod time.Duration
	Limits     Limits
	// CacheBytes bounds the files that are remembered; default 64 MiB. ReadBytes bounds what is being read and sent at the same
	// time, in batches of Limits.TotalBytes; default 256 MiB, but at least one batch.
	CacheBytes, ReadBytes int64
	// OnSync is told of every batch that was sent; nil: nobody is.
	OnSync func()
	Log    *zap.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
}

func (c *Config) complete() error {
	l := c.Limits
	switch {
	case c.Auth == nil, c.Token == nil, c.AgeLimit == nil, c.Projects == nil, c.Repository == nil, c.Pushes == nil, c.Log == nil:
		return errors.New("gitops: authenticator, token, age limit, projects, repository, pushes and log are required")
	case c.PollPeriod <= 0, l.FileBytes <= 0, l.TotalBytes <= 0, l.Paths <= 0, l.Files <= 0:
		return errors.New("gitops: poll period and limits must be positive")
	case c.ProjectTTL < 0, c.ProjectErrorTTL < 0, c.CacheBytes < 0, c.ReadBytes < 0:
		return errors.New("gitops: times and sizes must not be negative")
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.ReadBytes == 0 {
		c.ReadBytes = defaultReadBytes
	}
	if c.OnSync == nil {
		c.OnSync = func() {}
	}
	return nil
}

// Server is the Gitops service.
type Server struct {
	gitops.UnimplementedGitopsServer

	cfg      Config
	pushes   *pushes.Hub
	projects *projectCache
	loader   *loader
	batches  *batches
	turns    *turns
	senders  *senders
	metrics  metrics
}

// New returns a Server. It hears push events while Run is running, and serves until that has returned.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	m := newMetrics()
	if err := m.register(cfg.Registerer); err != nil {
		return nil, err
	}
	return &Server{
		cfg:      cfg,
		pushes:   pushes.NewHub(),
		projects: newProjectCache(cfg.Projects, cfg.ProjectTTL, cfg.ProjectErrorTTL),
		loader:   &loader{repository: cfg.Repository, limits: cfg.Limits, cache: newBlobCache(cfg.CacheBytes), files: m.files},
		batches:  newBatches(cfg.Limits.TotalBytes+cfg.Limits.FileBytes, cfg.ReadBytes),
		turns:    newTurns(),
		senders:  &senders{},
		metrics:  m,
	}, nil
}

// Run passes push events on until ctx ends, and then ends what is still being read. Streams have to end before.
func (s *Server) Run(ctx context.Context) error {
	s.pushes.Run(ctx, s.cfg.Pushes, s.cfg.Log)
	s.batches.close()
	s.senders.wait()
	return nil
}

// GetObjectsToSynchronize implements the service.
func (s *Server) GetObjectsToSynchronize(
	req *gitops.ObjectsToSynchronizeRequest, stream grpc.ServerStreamingServer[gitops.ObjectsToSynchronizeResponse],
) error {
	if n := len(req.Paths); n > s.cfg.Limits.Paths {
		return status.Errorf(codes.InvalidArgument, "GitOps: maximum number of manifest paths is %d, got %d", s.cfg.Limits.Paths, n)
	}
	if len(req.ProjectId) > maxProjectPath {
		return status.Error(codes.NotFound, "project not found")
	}
	x := newSession(s, req, stream)
	defer x.end()
	return x.run(s.cfg.AgeLimit(stream.Context()))
}
