package railsapi

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/agenttracker/rpc"
	"gitlab.com/agentk/agentk/api/configurationproject"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/event"
	"gitlab.com/agentk/agentk/api/notifications"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/version"
)

func codeOf(err error) codes.Code { return status.Code(err) }

func pod(agent, project, connection int64) *agenttracker.ConnectedAgentInfo {
	return &agenttracker.ConnectedAgentInfo{
		AgentMeta: &entity.AgentMeta{Version: version.Version, PodName: "agentk-7d9c8b6f5d-x2k4z", PodNamespace: "gitlab-agent"},
		AgentId:   agent, ProjectId: project, ConnectionId: connection, ConnectedAt: timestamppb.New(time.Unix(1_700_000_000, 0)),
	}
}

func (f *fixture) register(t *testing.T, pods ...*agenttracker.ConnectedAgentInfo) {
	t.Helper()
	for _, p := range pods {
		if err := f.store.RegisterAgent(t.Context(), p, 7*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
}

// everyList asks in all spellings that have been in use.
func everyList(client rpc.AgentTrackerClient) map[string]func(ctx context.Context, byProject bool, ids ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	type answer interface {
		GetAgents() []*agenttracker.ConnectedAgentInfo
	}
	result := func(a answer, err error) ([]*agenttracker.ConnectedAgentInfo, error) { return a.GetAgents(), err }
	return map[string]func(ctx context.Context, byProject bool, ids ...int64) ([]*agenttracker.ConnectedAgentInfo, error){
		"to 16.11": func(ctx context.Context, byProject bool, ids ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
			req := &rpc.GetConnectedAgentsRequest{Request: &rpc.GetConnectedAgentsRequest_AgentId{AgentId: ids[0]}}
			if byProject {
				req.Request = &rpc.GetConnectedAgentsRequest_ProjectId{ProjectId: ids[0]}
			}
			return result(client.GetConnectedAgents(ctx, req))
		},
		"16.7": func(ctx context.Context, byProject bool, ids ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
			if byProject {
				return result(client.GetConnectedAgentsByProjectIds(ctx, &rpc.GetConnectedAgentsByProjectIDsRequest{ProjectIds: ids}))
			}
			return result(client.GetConnectedAgentsByAgentIds(ctx, &rpc.GetConnectedAgentsByAgentIDsRequest{AgentIds: ids}))
		},
		"from 16.8": func(ctx context.Context, byProject bool, ids ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
			if byProject {
				return result(client.GetConnectedAgentsByProjectIDs(ctx, &rpc.GetConnectedAgentsByProjectIDsRequest{ProjectIds: ids}))
			}
			return result(client.GetConnectedAgentsByAgentIDs(ctx, &rpc.GetConnectedAgentsByAgentIDsRequest{AgentIds: ids}))
		},
		"newest": func(ctx context.Context, byProject bool, ids ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
			if byProject {
				return result(client.GetConnectedAgentksByProjectIDs(ctx, &rpc.GetConnectedAgentksByProjectIDsRequest{ProjectIds: ids}))
			}
			return result(client.GetConnectedAgentksByAgentIDs(ctx, &rpc.GetConnectedAgentksByAgentIDsRequest{AgentIds: ids}))
		},
	}
}

func TestTracker_EverySpelling(t *testing.T) {
	f := start(t, nil)
	f.register(t, pod(7, 10, 72), pod(7, 10, 71), pod(8, 10, 81), pod(9, 11, 91))
	for name, list := range everyList(rpc.NewAgentTrackerClient(f.dial(t))) {
		t.Run(name, func(t *testing.T) {
			for _, tc := range []struct {
				byProject bool
				id        int64
				want      []*agenttracker.ConnectedAgentInfo
			}{
				{false, 7, []*agenttracker.ConnectedAgentInfo{pod(7, 10, 71), pod(7, 10, 72)}},
				{true, 10, []*agenttracker.ConnectedAgentInfo{pod(7, 10, 71), pod(7, 10, 72), pod(8, 10, 81)}},
				{false, 4711, nil},
				{true, 4711, nil},
				{false, -1, nil},
			} {
				got, err := list(asRails(t), tc.byProject, tc.id)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
					t.Errorf("by project %t, %d (-want +got):\n%s", tc.byProject, tc.id, diff)
				}
			}
		})
	}
}

func TestTracker_Batches(t *testing.T) {
	f := start(t, nil)
	f.register(t, pod(7, 10, 71), pod(8, 10, 81), pod(9, 11, 91))
	client := rpc.NewAgentTrackerClient(f.dial(t))
	got, err := client.GetConnectedAgentksByAgentIDs(asRails(t), &rpc.GetConnectedAgentksByAgentIDsRequest{AgentIds: []int64{9, 7, 7, 1}})
	if err != nil || len(got.Agents) != 2 || got.Agents[0].AgentId != 7 || got.Agents[1].AgentId != 9 {
		t.Errorf("got %v %v", got, err)
	}
	_, err = client.GetConnectedAgentksByAgentIDs(asRails(t), &rpc.GetConnectedAgentksByAgentIDsRequest{AgentIds: make([]int64, maxIDs+1)})
	if codeOf(err) != codes.InvalidArgument {
		t.Errorf("too many ids: %v", err)
	}
	_, err = client.GetConnectedAgents(asRails(t), &rpc.GetConnectedAgentsRequest{})
	if codeOf(err) != codes.InvalidArgument {
		t.Errorf("neither agent nor project: %v", err)
	}
}

func TestTracker_CountByVersion(t *testing.T) {
	f := start(t, nil)
	old := pod(8, 10, 81)
	old.AgentMeta.Version = "v17.0.0"
	f.register(t, pod(7, 10, 71), pod(7, 10, 72), old)
	got, err := rpc.NewAgentTrackerClient(f.dial(t)).CountAgentsByAgentVersions(asRails(t), &rpc.CountAgentsByAgentVersionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{version.Version: 1, "v17.0.0": 1}, got.AgentVersions); diff != "" {
		t.Error(diff)
	}
}

// A deleted agent cannot register any more; what is left of it goes when its last registration has expired.
func TestTracker_DeletedAgentDisappears(t *testing.T) {
	f := start(t, nil)
	f.register(t, pod(7, 10, 71))
	client := rpc.NewAgentTrackerClient(f.dial(t))
	for _, want := range []int{1, 0} {
		got, err := client.GetConnectedAgentsByAgentIDs(asRails(t), &rpc.GetConnectedAgentsByAgentIDsRequest{AgentIds: []int64{7}})
		if err != nil || len(got.Agents) != want {
			t.Errorf("got %v %v, want %d", got, err, want)
		}
		f.clock.advance(7 * time.Minute)
	}
}

// brokenStore is a store that cannot be reached.
type brokenStore struct{}

var errStore = errors.New("connection refused")

func (brokenStore) AgentsByID(context.Context, ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	return nil, errStore
}

func (brokenStore) AgentsByProject(context.Context, ...int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	return nil, errStore
}

func (brokenStore) CountByVersion(context.Context) (map[string]int64, error) { return nil, errStore }
func (brokenStore) Publish(context.Context, string) error                    { return errStore }

func TestStoreFails(t *testing.T) {
	f := start(t, func(c *Config) { c.Agents, c.Events = brokenStore{}, brokenStore{} })
	conn := f.dial(t)
	tracker := rpc.NewAgentTrackerClient(conn)
	for name, list := range everyList(tracker) {
		for _, byProject := range []bool{false, true} {
			_, err := list(asRails(t), byProject, 7)
			if codeOf(err) != codes.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	_, err := tracker.CountAgentsByAgentVersions(asRails(t), &rpc.CountAgentsByAgentVersionsRequest{})
	if codeOf(err) != codes.Unavailable {
		t.Errorf("count: %v", err)
	}
	_, err = notifications.NewNotificationsClient(conn).GitPushEvent(asRails(t), push(10, "acme/infra"))
	wantStatus(t, err, codes.Unavailable, "Failed to publish the push event: connection refused")
}

func push(id int64, path string) *notifications.GitPushEventRequest {
	return &notifications.GitPushEventRequest{Event: &event.GitPushEvent{Project: &event.Project{Id: id, FullPath: path}}}
}

// oldPush is what GitLab 16.0 and 16.1 send, written out by hand.
func oldPush(t *testing.T) *notifications.GitPushEventRequest {
	t.Helper()
	project := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 10)
	project = protowire.AppendString(protowire.AppendTag(project, 2, protowire.BytesType), "acme/infra")
	raw := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), project)
	req := &notifications.GitPushEventRequest{}
	if err := proto.Unmarshal(raw, req); err != nil {
		t.Fatal(err)
	}
	return req
}

func TestGitPushEvent(t *testing.T) {
	f := start(t, nil)
	events, err := f.store.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := notifications.NewNotificationsClient(f.dial(t))
	newer := push(10, "acme/infra")
	newer.Event.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), "commit"))
	for name, req := range map[string]*notifications.GitPushEventRequest{
		"16.2 and later": push(10, "acme/infra"), "newer, with more fields": newer, "16.0 and 16.1": oldPush(t),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client.GitPushEvent(asRails(t), req); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-events:
				if got != "acme/infra" {
					t.Errorf("got %q", got)
				}
			case <-time.After(time.Second):
				t.Error("not published within a second")
			}
		})
	}
	for name, req := range map[string]*notifications.GitPushEventRequest{
		"nothing": {}, "no project": {Event: &event.GitPushEvent{}}, "no id": push(0, "acme/infra"), "negative id": push(-1, "acme/infra"), "no path": push(10, ""),
	} {
		if _, err := client.GitPushEvent(asRails(t), req); codeOf(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case got := <-events:
		t.Errorf("%q is published of a bad request", got)
	default:
	}
}

func filesRequest(branch string) *configurationproject.ListAgentConfigFilesRequest {
	return &configurationproject.ListAgentConfigFilesRequest{
		Repository:    &entity.GitalyRepository{StorageName: "default", RelativePath: "@hashed/1.git", GlRepository: "project-10", GlProjectPath: "acme/infra"},
		GitalyInfo:    &entity.GitalyInfo{Address: "unix:/gitaly.socket", Token: "gitaly secret", Features: map[string]string{"gitaly-feature-x": "true"}},
		DefaultBranch: branch,
	}
}

func TestListAgentConfigFiles(t *testing.T) {
	f := start(t, nil)
	client := configurationproject.NewConfigurationProjectClient(f.dial(t))
	f.repository.files = []ConfigFile{{Path: ".gitlab/agents/a/config.yaml", Agent: "a"}, {Path: ".gitlab/agents/b/config.yaml", Agent: "b"}}
	for branch, want := range map[string]string{"": "", "main": "main", "refs/heads/main": "main", "refs/heads/refs/heads/x": "refs/heads/x", "heads/x": "heads/x"} {
		got, err := client.ListAgentConfigFiles(asRails(t), filesRequest(branch))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]*configurationproject.AgentConfigFile{
			{Name: ".gitlab/agents/a/config.yaml", AgentName: "a"}, {Name: ".gitlab/agents/b/config.yaml", AgentName: "b"},
		}, got.ConfigFiles, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		req := filesRequest(branch)
		if diff := cmp.Diff(backend.Project{Path: "acme/infra", DefaultBranch: want, Gitaly: req.GitalyInfo, Repository: req.Repository},
			f.repository.asked, protocmp.Transform()); diff != "" {
			t.Errorf("branch %q: asked (-want +got):\n%s", branch, diff)
		}
	}
	if _, err := client.ListAgentConfigFiles(asRails(t), filesRequest("refs/heads/")); codeOf(err) != codes.InvalidArgument {
		t.Errorf("branch without a name: %v", err)
	}
}

func TestListAgentConfigFiles_Errors(t *testing.T) {
	f := start(t, nil)
	client := configurationproject.NewConfigurationProjectClient(f.dial(t))
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
	}{
		"no such branch":    {fault.New(fault.NotFound, fault.Git, "no such branch"), codes.OK},
		"invalid argument":  {fault.New(fault.InvalidArgument, fault.Git, "bad storage"), codes.InvalidArgument},
		"unavailable":       {fault.New(fault.Unavailable, fault.Git, "down"), codes.Unavailable},
		"permission denied": {fault.New(fault.PermissionDenied, fault.Git, "token"), codes.Unavailable},
		"internal":          {fault.New(fault.Internal, fault.Git, "broken"), codes.Unavailable},
		"not a fault":       {errors.New("what"), codes.Unavailable},
		"deadline":          {context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			f.repository.err = tc.err
			got, err := client.ListAgentConfigFiles(asRails(t), filesRequest(""))
			if codeOf(err) != tc.want || len(got.GetConfigFiles()) > 0 {
				t.Errorf("got %v %v", got, err)
			}
		})
	}
}

func TestRailsDeadlineIsKept(t *testing.T) {
	f := start(t, nil)
	f.repository.block = true
	ctx, cancel := context.WithTimeout(asRails(t), 20*time.Millisecond)
	defer cancel()
	_, err := configurationproject.NewConfigurationProjectClient(f.dial(t)).ListAgentConfigFiles(ctx, filesRequest(""), grpc.WaitForReady(true))
	if codeOf(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

// Every service of this API and every method of it is asked for in these tests or in the tracker's table.
func TestServicesAreComplete(t *testing.T) {
	want := []string{
		"gitlab.agent.agent_tracker.rpc.AgentTracker", "gitlab.agent.configuration_project.rpc.ConfigurationProject",
		"gitlab.agent.notifications.rpc.Notifications", "gitlab.agent.server_info.rpc.ServerInfo",
	}
	listener := start(t, nil)
	families, err := listener.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "grpc_service" && !slices.Contains(got, label.GetValue()) {
					got = append(got, label.GetValue())
				}
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
