package gitlab

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/encoding/protojson"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/rules"
)

// protoJSON is how GitLab expects messages: keys as in the .proto files.
var protoJSON = protojson.MarshalOptions{UseProtoNames: true}

// AllowedAgents says which agents the CI job with this token may use, and what is known about the job. The faults
// Unauthenticated (the token is not valid or the job has ended), PermissionDenied and NotFound (not a job's token) are
// GitLab's refusals. Internal: the answer is malformed, or holds something that this kas does not understand, which makes all
// of it doubtful.
func (c *Client) AllowedAgents(ctx context.Context, jobToken string) (*gitlabapi.AllowedAgentsForJob, error) {
	q := &call{endpoint: endpointAllowedAgents, method: http.MethodGet, path: c.path("/api/v4/job/allowed_agents"), open: true}
	if jobToken == "" || !httpguts.ValidHeaderFieldValue(jobToken) {
		// No job has such a token, and GitLab need not be asked to know what it would say.
		return nil, fail(ctx, q, &StatusError{Code: http.StatusUnauthorized, Path: q.path})
	}
	q.header = http.Header{"Job-Token": {jobToken}}
	answer := &gitlabapi.AllowedAgentsForJob{}
	if err := c.ask(ctx, q, answer); err != nil {
		return nil, fail(ctx, q, err)
	}
	return answer, nil
}

// AuthorizeUser says whether a user may use an agent, and as whom. Faults as of AllowedAgents; their texts may hold GitLab's
// reason, which is for logs and never for the user.
func (c *Client) AuthorizeUser(ctx context.Context, ask *gitlabapi.AuthorizeProxyUserRequest) (*gitlabapi.AuthorizeProxyUserResponse, error) {
	q := &call{endpoint: endpointUser, method: http.MethodPost, path: c.path(internalAPI + "authorize_proxy_user"), header: jsonHeader()}
	if err := rules.Validate(ask); err != nil {
		return nil, fault.Wrap(fault.InvalidArgument, fault.Client, err, "authorize user")
	}
	var err error
	if q.body, err = protoJSON.Marshal(ask); err != nil {
		return nil, fault.New(fault.Unauthenticated, fault.Client, "the credential is not UTF-8 text")
	}
	answer := &gitlabapi.AuthorizeProxyUserResponse{}
	if err := c.ask(ctx, q, answer); err != nil {
		var status *StatusError
		if errors.As(err, &status) {
			status.Reason = without(status.Reason, ask.AccessKey, ask.CsrfToken)
		}
		return nil, fail(ctx, q, err)
	}
	return answer, nil
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {mediaType}} }

// without removes secrets that GitLab repeats.
func without(text string, secrets ...string) string {
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "[secret]")
		}
	}
	return text
}
