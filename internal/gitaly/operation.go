package gitaly

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	gitalypb "gitlab.com/agentk/agentk/api/gitaly"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/version"
)

const (
	correlationKey = "x-gitlab-correlation-id"
	clientNameKey  = "x-gitlab-client-name"
	sessionKey     = "gitaly-session-id"
	routeKey       = "gitaly-route-repository-accessor-policy"
	primaryOnly    = "primary-only"
	featurePrefix  = "gitaly-feature-"
	// binarySuffix marks keys whose values gRPC encodes.
	binarySuffix = "-bin"
)

// operation is one question about one repository, which may take several calls.
type operation struct {
	c *Client
	// project is the full path, for messages.
	project        string
	address, token string
	features       map[string]string
	repository     *gitalypb.Repository
	correlation    string
	// session makes Gitaly keep its processes for the next call; "" does not.
	session string
	// primary asks Praefect for the node that is never behind. Gitaly itself does not care.
	primary bool
	// depart is called before each call is sent, after everything that makes it wait.
	depart func()
}

// operation returns one for a project's repository, or a fault if GitLab has not told where that is.
func (c *Client) operation(p backend.Project) (*operation, error) {
	if p.Gitaly.GetAddress() == "" || p.Repository == nil {
		return nil, fault.New(fault.Unavailable, fault.GitLab, "project %q: GitLab did not tell where the repository is", p.Path)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return &operation{
		c:        c,
		project:  p.Path,
		address:  p.Gitaly.Address,
		token:    p.Gitaly.Token,
		features: p.Gitaly.Features,
		repository: &gitalypb.Repository{
			StorageName:                   p.Repository.StorageName,
			RelativePath:                  p.Repository.RelativePath,
			GitObjectDirectory:            p.Repository.GitObjectDirectory,
			GitAlternateObjectDirectories: p.Repository.GitAlternateObjectDirectories,
			GlRepository:                  p.Repository.GlRepository,
			GlProjectPath:                 p.Repository.GlProjectPath,
		},
		correlation: hex.EncodeToString(id),
		depart:      func() {},
	}, nil
}

func (o *operation) key() repoKey {
	return repoKey{address: o.address, storage: o.repository.StorageName, path: o.repository.RelativePath}
}

// flight is the key of all who may share an answer: those who would ask with the same token.
func (o *operation) flight(more ...string) string {
	parts := append([]string{o.address, o.token, o.repository.StorageName, o.repository.RelativePath}, more...)
	return strings.Join(parts, "\x00")
}

// with returns a copy for the use of one flight.
func (o *operation) with(depart func(), primary bool) *operation {
	second := *o
	second.depart, second.primary = depart, primary
	return &second
}

// call makes one call, which ends after timeout, and returns a fault or the context's error. do may run twice; what it returns is
// a status of the server, a protocolError, or a fault that is passed on.
func (o *operation) call(ctx context.Context, timeout time.Duration, do func(context.Context, grpc.ClientConnInterface) error) error {
	err := o.once(ctx, timeout, o.primary, do)
	if o.primary && isUnhealthyPrimary(err) {
		err = o.once(ctx, timeout, false, do)
	}
	return o.judge(ctx, err)
}

func (o *operation) once(ctx context.Context, timeout time.Duration, primary bool, do func(context.Context, grpc.ClientConnInterface) error) error {
	cc, release, err := o.c.pool.borrow(o.address, o.token)
	if errors.Is(err, errClosed) {
		return err
	}
	if err != nil {
		o.alert(codes.InvalidArgument, "Gitaly cannot be called", err.Error())
		return fault.Wrap(fault.Unavailable, fault.Git, err, "project %q", o.project)
	}
	defer release()
	if err := o.c.limits.wait(ctx, o.address); err != nil {
		return fault.Wrap(fault.Unavailable, fault.Git, err, "project %q: too many calls to Gitaly", o.project)
	}
	o.depart()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, o.metadata(primary)), timeout)
	defer cancel() // also ends streams that are left early
	return do(ctx, cc)
}

// metadata is made anew: nothing of what the caller's own context carries is Gitaly's business.
func (o *operation) metadata(primary bool) metadata.MD {
	md := metadata.Pairs(correlationKey, o.correlation, clientNameKey, version.KasName)
	for key, value := range o.features {
		if featureKey.MatchString(key) && !strings.HasSuffix(key, binarySuffix) && featureValue.MatchString(value) {
			md.Set(key, value)
		}
	}
	if o.session != "" {
		md.Set(sessionKey, o.session)
	}
	if primary {
		md.Set(routeKey, primaryOnly)
	}
	return md
}

// What of the feature map is sent: it must be able neither to replace other keys nor to make the call impossible.
var (
	featureKey   = regexp.MustCompile(`^` + featurePrefix + `[a-z0-9_.-]+$`)
	featureValue = regexp.MustCompile(`^[ -~]*$`)
)
