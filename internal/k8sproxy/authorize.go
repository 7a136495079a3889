package k8sproxy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/http"

	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/identity"
	"gitlab.com/agentk/agentk/internal/rules"
)

// grant is the outcome of an authorization: who asks, and who the request becomes in the cluster.
type grant struct {
	// identity is nil for the agent's own account.
	identity *kubernetesapi.ImpersonationConfig
	// extra is the identity as the agent is told it. It is shared by all requests.
	extra    *anypb.Any
	username string
	userID   int64
	// configProjectID is the project that configures the agent.
	configProjectID int64
	// jobID and projectID are 0 for users.
	jobID, projectID int64
}

// authorize asks whether the credential may use its agent.
func (p *Proxy) authorize(ctx context.Context, c credential) (grant, *refusal) {
	if c.access == accessCI {
		return p.authorizeJob(ctx, c)
	}
	return p.authorizeUser(ctx, c)
}

func (p *Proxy) authorizeJob(ctx context.Context, c credential) (grant, *refusal) {
	answer, err := p.jobs.get(ctx, sha256.Sum256([]byte(c.token)), func(ctx context.Context) (*granted[*gitlabapi.AllowedAgentsForJob], error) {
		answer, err := p.cfg.Jobs.AllowedAgents(ctx, c.token)
		if err != nil {
			return nil, err
		}
		// One entry that is not understood makes all of it doubtful: a job must not lose a restriction that way.
		if err := rules.Validate(answer); err != nil {
			return nil, fault.Wrap(fault.Internal, fault.GitLab, err, "ValidateAll")
		}
		return &granted[*gitlabapi.AllowedAgentsForJob]{answer: answer}, nil
	})
	if err != nil {
		return grant{}, jobRefusal(err)
	}
	return answer.grant(c.agentID, func(answer *gitlabapi.AllowedAgentsForJob) (grant, *refusal) { return jobGrant(c.agentID, answer) })
}

// jobGrant says who a job becomes at an agent.
func jobGrant(agentID int64, answer *gitlabapi.AllowedAgentsForJob) (grant, *refusal) {
	g := grant{username: answer.GetUser().GetUsername(), userID: answer.GetUser().GetId(), jobID: answer.GetJob().GetId(), projectID: answer.GetProject().GetId()}
	for _, agent := range answer.GetAllowedAgents() {
		if agent.GetId() != agentID {
			continue
		}
		g.configProjectID = agent.GetConfigProject().GetId()
		var err error
		if g.identity, err = identity.ForJob(agent, answer); err != nil {
			return grant{}, noIdentity(err)
		}
		return g, nil
	}
	return g, &refusal{code: http.StatusForbidden, hop: fault.Kas, msg: "Forbidden: agentId is not allowed"}
}

// noIdentity refuses a request that nobody can say in whose name it would be.
func noIdentity(err error) *refusal {
	return &refusal{code: http.StatusInternalServerError, hop: fault.Kas, msg: "Failed to construct impersonation config: " + err.Error()}
}

func jobRefusal(err error) *refusal {
	r := &refusal{hop: hopOr(err, fault.GitLab)}
	switch fault.KindOf(err) {
	case fault.Unauthenticated:
		r.code, r.msg = http.StatusUnauthorized, "Unauthorized: CI job token: "+err.Error()
	case fault.PermissionDenied:
		r.code, r.msg = http.StatusForbidden, "Forbidden: CI job token: "+err.Error()
	case fault.NotFound:
		r.code, r.msg = http.StatusNotFound, "Not found: agents for CI job token: "+err.Error()
	default:
		r.code, r.msg = http.StatusInternalServerError, "Failed to get allowed agents for CI job token: "+err.Error()
	}
	return r
}

func hopOr(err error, hop fault.Hop) fault.Hop {
	if h := fault.HopOf(err); h != "" {
		return h
	}
	return hop
}

var errNoUsers = fault.New(fault.Unauthenticated, fault.Kas, "this kas knows no users")

func (p *Proxy) authorizeUser(ctx context.Context, c credential) (grant, *refusal) {
	if p.cfg.Users == nil {
		return grant{}, userRefusal(errNoUsers)
	}
	by := identity.PersonalAccessToken
	if c.access == accessSession {
		by = identity.SessionCookie
	}
	answer, err := p.users.get(ctx, userKey(c), func(ctx context.Context) (*granted[*gitlabapi.AuthorizeProxyUserResponse], error) {
		answer, err := p.cfg.Users.AuthorizeUser(ctx, &gitlabapi.AuthorizeProxyUserRequest{
			AgentId: c.agentID, AccessType: string(by), AccessKey: c.token, CsrfToken: c.csrf,
		})
		if err != nil {
			return nil, err
		}
		if err := rules.Validate(answer); err != nil {
			return nil, fault.Wrap(fault.Internal, fault.GitLab, err, "ValidateAll")
		}
		if answer.GetAgent().GetId() != c.agentID {
			return nil, fault.Wrap(fault.Internal, fault.GitLab, errOtherAgent, "ValidateAll")
		}
		return &granted[*gitlabapi.AuthorizeProxyUserResponse]{answer: answer}, nil
	})
	if err != nil {
		return grant{}, userRefusal(err)
	}
	return answer.grant(c.agentID, func(answer *gitlabapi.AuthorizeProxyUserResponse) (grant, *refusal) { return userGrant(by, answer) })
}

// userGrant says who a user becomes at the agent that the answer is about.
func userGrant(by identity.AccessType, answer *gitlabapi.AuthorizeProxyUserResponse) (grant, *refusal) {
	id, err := identity.ForUser(answer, by)
	if err != nil {
		return grant{}, &refusal{
			code: http.StatusInternalServerError, hop: fault.Kas, msg: "Failed to construct user impersonation config: " + err.Error(),
		}
	}
	return grant{
		identity: id, username: answer.GetUser().GetUsername(), userID: answer.GetUser().GetId(),
		configProjectID: answer.GetAgent().GetConfigProject().GetId(),
	}, nil
}

var errOtherAgent = errors.New("the answer is about another agent")

// userRefusal tells the client nothing of the cause: it must not learn which agents or users exist.
func userRefusal(err error) *refusal {
	if refused(err) {
		return &refusal{code: http.StatusUnauthorized, hop: hopOr(err, fault.GitLab), msg: "Unauthorized", logged: "Unauthorized: " + err.Error()}
	}
	const msg = "Failed to authorize user session"
	return &refusal{code: http.StatusInternalServerError, hop: hopOr(err, fault.GitLab), msg: msg, logged: msg + ": " + err.Error()}
}

// userKey covers everything that the answer depends on. Each part carries its length, so that two credentials never meet.
func userKey(c credential) cacheKey {
	h := sha256.New()
	var n [8]byte
	number := func(v uint64) {
		binary.LittleEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	number(uint64(c.agentID))
	for _, part := range []string{string(c.access), c.token, c.csrf} {
		number(uint64(len(part)))
		h.Write([]byte(part))
	}
	return cacheKey(h.Sum(nil))
}
