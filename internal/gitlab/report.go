package gitlab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/rules"
)

// maxListed is how many entries of an access list GitLab uses; it was 100 before 17.0.
const maxListed = 500

// PostConfiguration tells GitLab the configuration that an agent got. GitLab decides about ci_access and user_access by it, so
// the empty configuration is posted too: it takes all access away. A fault of kind NotFound says that the agent is gone.
func (c *Client) PostConfiguration(ctx context.Context, agentID int64, file *agentcfg.ConfigurationFile) error {
	q := &call{endpoint: endpointConfiguration, method: http.MethodPost, path: c.path(internalAPI + "agent_configuration"), header: jsonHeader()}
	msg := &gitlabapi.AgentConfigurationRequest{AgentId: agentID, AgentConfig: explicit(file)}
	if err := rules.Validate(msg); err != nil {
		return fault.Wrap(fault.InvalidArgument, fault.Kas, err, "post configuration")
	}
	var err error
	if q.body, err = protoJSON.Marshal(msg); err != nil {
		return fault.New(fault.InvalidArgument, fault.Kas, "post configuration: it is not UTF-8 text")
	}
	return c.report(ctx, q)
}

// explicit writes out what user_access leaves to its default: GitLab ignores a list of users without access_as.
func explicit(file *agentcfg.ConfigurationFile) *agentcfg.ConfigurationFile {
	if file == nil {
		return &agentcfg.ConfigurationFile{}
	}
	if file.UserAccess == nil || file.UserAccess.AccessAs != nil {
		return file
	}
	out := proto.CloneOf(file)
	out.UserAccess.AccessAs = &agentcfg.UserAccessAsCF{As: &agentcfg.UserAccessAsCF_Agent{Agent: &agentcfg.UserAccessAsAgentCF{}}}
	return out
}

// OverCap names the access lists of a configuration that are longer than GitLab uses them. Who posts such a configuration
// tells its author: the entries beyond would silently give no access.
func OverCap(file *agentcfg.ConfigurationFile) []string {
	var over []string
	for _, list := range []struct {
		path string
		n    int
	}{
		{"ci_access.projects", len(file.GetCiAccess().GetProjects())},
		{"ci_access.groups", len(file.GetCiAccess().GetGroups())},
		{"user_access.projects", len(file.GetUserAccess().GetProjects())},
		{"user_access.groups", len(file.GetUserAccess().GetGroups())},
	} {
		if list.n > maxListed {
			over = append(over, fmt.Sprintf("%s has %d entries, GitLab uses %d of them at most", list.path, list.n, maxListed))
		}
	}
	return over
}

// PostUsage adds to GitLab's usage counters. It is not repeated: the caller keeps what was not taken. Nothing is sent when
// there is nothing to count.
func (c *Client) PostUsage(ctx context.Context, counters map[string]int64, unique map[string][]int64) error {
	if len(counters) == 0 && len(unique) == 0 {
		return nil
	}
	return c.reportJSON(ctx, endpointUsage, true, struct {
		Counters map[string]int64   `json:"counters,omitempty"`
		Unique   map[string][]int64 `json:"unique_counters,omitempty"`
	}{counters, unique})
}

// PostEvents tells GitLab about events: events becomes a JSON object of lists, by kind of event.
func (c *Client) PostEvents(ctx context.Context, events any) error {
	return c.reportJSON(ctx, endpointEvents, false, struct {
		Events any `json:"events"`
	}{events})
}

func (c *Client) reportJSON(ctx context.Context, endpoint string, once bool, body any) error {
	q := &call{endpoint: endpoint, method: http.MethodPost, path: c.path(internalAPI + endpoint), header: jsonHeader(), once: once}
	var err error
	if q.body, err = json.Marshal(body); err != nil {
		return fault.Wrap(fault.Internal, fault.Kas, err, "encode %s", endpoint)
	}
	return c.report(ctx, q)
}

func (c *Client) report(ctx context.Context, q *call) error {
	if err := c.tell(ctx, q); err != nil {
		return fail(ctx, q, err)
	}
	return nil
}
