package gitlab

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agenttracker"
	trackerrpc "gitlab.com/agentk/agentk/api/agenttracker/rpc"
	"gitlab.com/agentk/agentk/api/configurationproject"
	"gitlab.com/agentk/agentk/api/notifications"
	"gitlab.com/agentk/agentk/api/serverinfo"
	serverinforpc "gitlab.com/agentk/agentk/api/serverinfo/rpc"
)

// fakeKas is the API of a kas for Rails that only notes what it is called with.
type fakeKas struct {
	trackerrpc.UnimplementedAgentTrackerServer
	configurationproject.UnimplementedConfigurationProjectServer
	notifications.UnimplementedNotificationsServer
	serverinforpc.UnimplementedServerInfoServer

	mu      sync.Mutex
	methods []string
	md      metadata.MD
	pushed  *notifications.GitPushEventRequest
	listed  *configurationproject.ListAgentConfigFilesRequest
	failure error
}

func (f *fakeKas) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	f.methods = append(f.methods, info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:])
	f.md, _ = metadata.FromIncomingContext(ctx)
	failure := f.failure
	f.mu.Unlock()
	if failure != nil {
		return nil, failure
	}
	return handle(ctx, request)
}

func (f *fakeKas) GitPushEvent(_ context.Context, r *notifications.GitPushEventRequest) (*notifications.GitPushEventResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pushed = r
	return &notifications.GitPushEventResponse{}, nil
}

func (f *fakeKas) ListAgentConfigFiles(_ context.Context, r *configurationproject.ListAgentConfigFilesRequest) (*configurationproject.ListAgentConfigFilesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = r
	return &configurationproject.ListAgentConfigFilesResponse{ConfigFiles: []*configurationproject.AgentConfigFile{{AgentName: "edge"}}}, nil
}

var oneAgent = []*agenttracker.ConnectedAgentInfo{{AgentId: edgeID}}

func (f *fakeKas) GetConnectedAgents(context.Context, *trackerrpc.GetConnectedAgentsRequest) (*trackerrpc.GetConnectedAgentsResponse, error) {
	return &trackerrpc.GetConnectedAgentsResponse{Agents: oneAgent}, nil
}

func (f *fakeKas) GetConnectedAgentsByAgentIDs(context.Context, *trackerrpc.GetConnectedAgentsByAgentIDsRequest) (*trackerrpc.GetConnectedAgentsByAgentIDsResponse, error) {
	return &trackerrpc.GetConnectedAgentsByAgentIDsResponse{Agents: oneAgent}, nil
}

func (f *fakeKas) GetConnectedAgentksByAgentIDs(context.Context, *trackerrpc.GetConnectedAgentksByAgentIDsRequest) (*trackerrpc.GetConnectedAgentksByAgentIDsResponse, error) {
	return &trackerrpc.GetConnectedAgentksByAgentIDsResponse{Agents: oneAgent}, nil
}

func (f *fakeKas) GetConnectedAgentsByProjectIDs(context.Context, *trackerrpc.GetConnectedAgentsByProjectIDsRequest) (*trackerrpc.GetConnectedAgentsByProjectIDsResponse, error) {
	return &trackerrpc.GetConnectedAgentsByProjectIDsResponse{Agents: oneAgent}, nil
}

func (f *fakeKas) GetConnectedAgentksByProjectIDs(context.Context, *trackerrpc.GetConnectedAgentksByProjectIDsRequest) (*trackerrpc.GetConnectedAgentksByProjectIDsResponse, error) {
	return &trackerrpc.GetConnectedAgentksByProjectIDsResponse{Agents: oneAgent}, nil
}

func (f *fakeKas) GetServerInfo(context.Context, *serverinforpc.GetServerInfoRequest) (*serverinforpc.GetServerInfoResponse, error) {
	return &serverinforpc.GetServerInfoResponse{CurrentServerInfo: &serverinfo.ServerInfo{Version: "v1"}}, nil
}

func (f *fakeKas) last() (string, metadata.MD) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.methods[len(f.methods)-1], f.md
}

// startKas starts a fake kas and returns it and its internal URL.
func startKas(t *testing.T) (*fakeKas, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	f := &fakeKas{}
	server := grpc.NewServer(grpc.UnaryInterceptor(f.intercept))
	trackerrpc.RegisterAgentTrackerServer(server, f)
	configurationproject.RegisterConfigurationProjectServer(server, f)
	notifications.RegisterNotificationsServer(server, f)
	serverinforpc.RegisterServerInfoServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return f, "grpc://" + listener.Addr().String()
}

func withKas(cfg Config, url string) Config {
	cfg.Settings.Kas = KasSettings{InternalURL: url, ExternalURL: "ws://kas.test"}
	return cfg
}

func TestKas_Calls(t *testing.T) {
	for version, want := range map[string][2]string{
		"16.6": {"GetConnectedAgents", "GetConnectedAgents"},
		"17.3": {"GetConnectedAgentsByAgentIDs", "GetConnectedAgentsByProjectIDs"},
		"18.6": {"GetConnectedAgentksByAgentIDs", "GetConnectedAgentksByProjectIDs"},
	} {
		fake, url := startKas(t)
		g := start(t, withKas(Config{Version: version}, url))
		agents, err := g.Kas().ConnectedAgents(t.Context(), edgeID)
		method, md := fake.last()
		if err != nil || len(agents) != 1 || method != want[0] {
			t.Errorf("%s: %v, %v by %s", version, agents, err, method)
		}
		agents, err = g.Kas().ConnectedAgentsOfProject(t.Context(), infraID)
		if method, _ := fake.last(); err != nil || len(agents) != 1 || method != want[1] {
			t.Errorf("%s: %v, %v by %s", version, agents, err, method)
		}
		scheme, token, _ := strings.Cut(md.Get("authorization")[0], " ")
		claims := jwt.MapClaims{}
		_, err = jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return g.Secret, nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience("gitlab-kas"), jwt.WithIssuer("127.0.0.1"), jwt.WithExpirationRequired())
		if err != nil || scheme != "bearer" {
			t.Errorf("token %q: %v", scheme, err)
		}
	}
}

func TestKas_ConfigFilesAndServerInfo(t *testing.T) {
	fake, url := startKas(t)
	g := start(t, withKas(Config{GitalyTCP: true}, url))
	g.Change(func(s *Settings) { s.Kas.Features = map[string]bool{"x": true} })
	files, err := g.Kas().AgentConfigFiles(t.Context(), "acme/infra")
	if err != nil || len(files) != 1 || fake.listed.GetGitalyInfo().GetAddress() != g.Gitaly.TCPAddress() || fake.listed.GetRepository().GetGlProjectPath() != "acme/infra" {
		t.Errorf("%v, %v, %v", files, err, fake.listed)
	}
	if _, md := fake.last(); md.Get("kas-feature-x")[0] != "true" {
		t.Errorf("metadata %v", md)
	}
	info, err := g.Kas().ServerInfo(t.Context())
	if err != nil || info.GetVersion() != "v1" {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := g.Kas().AgentConfigFiles(t.Context(), "no/such"); err == nil {
		t.Error("no error for a project that is not there")
	}
}

func TestKas_Spoiled(t *testing.T) {
	fake, url := startKas(t)
	g := start(t, withKas(Config{}, url))
	spoiled := g.Kas().Spoiled(func(c jwt.MapClaims) jwt.SigningMethod {
		c["aud"] = "somebody"
		return jwt.SigningMethodHS512
	})
	_, err := spoiled.ServerInfo(t.Context())
	check(t, err)
	_, md := fake.last()
	_, token, _ := strings.Cut(md.Get("authorization")[0], " ")
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return g.Secret, nil }, jwt.WithValidMethods([]string{"HS512"})); err != nil || claims["aud"] != "somebody" {
		t.Errorf("%v, %v", claims, err)
	}
}

// notifications waits for a number of push notifications.
func (g *GitLab) notified(t *testing.T, n int) []PushNotification {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		if got := g.PushNotifications(); len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d push notifications", len(g.PushNotifications()))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestCommit_NotifiesKas(t *testing.T) {
	fake, url := startKas(t)
	g := start(t, withKas(Config{}, url))
	first, err := g.PushConfig(t.Context(), edgeID, "a: b\n")
	check(t, err)
	if got := g.notified(t, 1)[0]; got.Err != nil || got.Project != "acme/infra" {
		t.Errorf("%+v", got)
	}
	if p := fake.pushed.GetEvent().GetProject(); p.GetId() != infraID || p.GetFullPath() != "acme/infra" {
		t.Errorf("%v", p)
	}
	fake.mu.Lock()
	fake.failure = status.Error(codes.Unavailable, "gone")
	fake.mu.Unlock()
	second, err := g.PushConfig(t.Context(), edgeID, "")
	check(t, err)
	if got := g.notified(t, 2)[1]; status.Code(got.Err) != codes.Unavailable || first == second {
		t.Errorf("%+v", got)
	}
	g.Change(func(s *Settings) { s.NoPushNotification = true })
	if _, err := g.Commit(t.Context(), "acme/infra", "feature", map[string]string{"x y/\"z\"": "1"}); err != nil {
		t.Error(err)
	}
	if got := g.PushNotifications(); len(got) != 2 {
		t.Errorf("%v", got)
	}
}
