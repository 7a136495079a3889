package kas_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// unary calls a method with a request.
func unary(method string, req proto.Message) func(*testing.T, context.Context, *grpc.ClientConn) error {
	return func(_ *testing.T, ctx context.Context, conn *grpc.ClientConn) error {
		return conn.Invoke(ctx, method, req, &emptypb.Empty{})
	}
}

// stream calls a streaming method with one message and waits for the first answer.
func stream(method string, req proto.Message) func(*testing.T, context.Context, *grpc.ClientConn) error {
	return func(_ *testing.T, ctx context.Context, conn *grpc.ClientConn) error {
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			return err
		}
		if err := s.SendMsg(req); err != nil && err != io.EOF { //nolint:errorlint // gRPC gives it as it is
			return err
		}
		if err := s.CloseSend(); err != nil {
			return err
		}
		return s.RecvMsg(&emptypb.Empty{})
	}
}

// agentMethods is every method of the agent listener. None of them does anything for somebody without an agent's token.
var agentMethods = map[string]func(*testing.T, context.Context, *grpc.ClientConn) error{
	agentconfiguration.AgentConfiguration_GetConfiguration_FullMethodName: stream(agentconfiguration.AgentConfiguration_GetConfiguration_FullMethodName,
		&agentconfiguration.ConfigurationRequest{AgentMeta: stockMeta, SkipRegister: true}),
	agentregistrar.AgentRegistrar_Register_FullMethodName: unary(agentregistrar.AgentRegistrar_Register_FullMethodName,
		&agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 1}),
	agentregistrar.AgentRegistrar_Unregister_FullMethodName: unary(agentregistrar.AgentRegistrar_Unregister_FullMethodName,
		&agentregistrar.UnregisterRequest{AgentMeta: stockMeta, PodId: 1}),
	gitops.Gitops_GetObjectsToSynchronize_FullMethodName: stream(gitops.Gitops_GetObjectsToSynchronize_FullMethodName,
		&gitops.ObjectsToSynchronizeRequest{ProjectId: "acme/infra", Paths: []*gitops.PathCF{{Path: &gitops.PathCF_Glob{Glob: "**"}}}}),
	reversetunnel.ReverseTunnel_Connect_FullMethodName: stream(reversetunnel.ReverseTunnel_Connect_FullMethodName, &reversetunnel.ConnectRequest{}),
	"/gitlab.agent.gitlab_access.rpc.GitlabAccess/MakeRequest": func(t *testing.T, ctx context.Context, conn *grpc.ClientConn) error {
		t.Helper()
		// GitLab decides about these, and its refusal is an HTTP answer.
		code, _, err := module(t, ctx, conn, "starboard_vulnerability", "/policies_configuration")
		if code == http.StatusUnauthorized {
			return status.Error(codes.Unauthenticated, "HTTP 401")
		}
		return err
	},
}

// railsMethods is every method of the API for Rails.
var railsMethods = []string{
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/CountAgentsByAgentVersions",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentksByAgentIDs",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentksByProjectIDs",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgents",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentsByAgentIDs",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentsByAgentIds",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentsByProjectIDs",
	"/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgentsByProjectIds",
	"/gitlab.agent.configuration_project.rpc.ConfigurationProject/ListAgentConfigFiles",
	"/gitlab.agent.notifications.rpc.Notifications/GitPushEvent",
	"/gitlab.agent.server_info.rpc.ServerInfo/GetServerInfo",
}

// privateMethods is every method of the private API.
var privateMethods = []string{"/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest", "/agentk.extensions.PrivateApi/Series"}

// peerToken is what another kas proves itself with, changed.
func (b *beside) peerToken(key any, method jwt.SigningMethod, change func(jwt.MapClaims)) string {
	b.t.Helper()
	return b.railsToken(key, method, func(c jwt.MapClaims) {
		c["iss"] = "gitlab-kas"
		c["exp"] = time.Now().Add(time.Minute).Unix()
		if change != nil {
			change(c)
		}
	})
}

var startedMetric = regexp.MustCompile(`grpc_server_started_total\{grpc_method="([^"]+)",grpc_service="([^"]+)"`)

// served lists the methods that kas serves, by its own metrics.
func (b *beside) served() []string {
	b.t.Helper()
	resp, err := http.Get(b.metrics)
	must(b.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	must(b.t, err)
	methods := map[string]bool{}
	for _, m := range startedMetric.FindAllStringSubmatch(string(text), -1) {
		methods["/"+m[2]+"/"+m[1]] = true
	}
	return slices.Sorted(maps.Keys(methods))
}

// railsToken is what Rails proves itself with, changed.
func (b *beside) railsToken(key any, method jwt.SigningMethod, change func(jwt.MapClaims)) string {
	b.t.Helper()
	now := time.Now()
	claims := jwt.MapClaims{"iss": "gitlab.test", "aud": "gitlab-kas", "iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(time.Minute).Unix()}
	if change != nil {
		change(claims)
	}
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	must(b.t, err)
	return token
}

// strangers are credentials that open nothing at either gRPC listener, by what they are.
func (b *beside) strangers() map[string]string {
	expired := func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() }
	return map[string]string{
		"nothing":           "",
		"no scheme":         "x",
		"basic":             "Basic eDp5",
		"made up":           "Bearer glagent-made-up",
		"user's token":      "Bearer " + b.pat.Value,
		"proxy credential":  "Bearer pat:7:" + b.pat.Value,
		"job token":         "Bearer " + b.job.Token,
		"for GitLab":        "Bearer " + b.railsToken(b.gl.Secret, jwt.SigningMethodHS256, func(c jwt.MapClaims) { c["iss"], c["aud"] = "gitlab-kas", "gitlab" }),
		"no audience":       "Bearer " + b.railsToken(b.gl.Secret, jwt.SigningMethodHS256, func(c jwt.MapClaims) { delete(c, "aud") }),
		"expired":           "Bearer " + b.railsToken(b.gl.Secret, jwt.SigningMethodHS256, expired),
		"other key":         "Bearer " + b.railsToken([]byte("another key that is long enough!"), jwt.SigningMethodHS256, nil),
		"unsigned":          "Bearer " + b.railsToken(jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, nil),
		"not yet valid":     "Bearer " + b.railsToken(b.gl.Secret, jwt.SigningMethodHS256, func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(time.Minute).Unix() }),
		"token of a cookie": "Bearer _gitlab_kas",
	}
}

func with(t *testing.T, authorization string) context.Context {
	t.Helper()
	ctx := timeout(t)
	if authorization == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", authorization)
}

// ready waits until kas says that it is: all listeners are there, and Redis is reached.
func (b *beside) ready() {
	b.t.Helper()
	b.eventually("kas is ready", func() bool {
		resp, err := http.Get(strings.TrimSuffix(b.metrics, "metrics") + "readiness")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}

// A method that is added without a row in one of the tables fails the first step.
func TestAuthentication_EveryMethod(t *testing.T) {
	b := besideGitLab(t, "")
	b.ready()
	listed := slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Keys(agentMethods)), railsMethods, privateMethods)))
	if diff := cmp.Diff(listed, b.served()); diff != "" {
		t.Fatalf("methods without a row, or rows without a method (-listed +served)\n%s", diff)
	}
	dial := func(target string) *grpc.ClientConn {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	agents, api := dial(b.agentAddr), dial("unix:"+b.gl.Dir+"/api.sock")
	agent, rails := "Bearer "+b.token.Value, "bearer "+b.railsToken(b.gl.Secret, jwt.SigningMethodHS256, nil)
	for method, call := range agentMethods {
		refused := b.strangers()
		refused["Rails"] = rails
		for who, authorization := range refused {
			if err := call(t, with(t, authorization), agents); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: %v", method, who, err)
			}
		}
		ctx, cancel := context.WithCancel(with(t, agent))
		if err := call(t, ctx, agents); status.Code(err) == codes.Unauthenticated {
			t.Errorf("%s as an agent: %v", method, err)
		}
		cancel()
	}
	for _, method := range railsMethods {
		refused := b.strangers()
		refused["agent"] = agent
		for who, authorization := range refused {
			if err := unary(method, &emptypb.Empty{})(t, with(t, authorization), api); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: %v", method, who, err)
			}
		}
		if err := unary(method, &emptypb.Empty{})(t, with(t, rails), api); status.Code(err) == codes.Unauthenticated {
			t.Errorf("%s as Rails: %v", method, err)
		}
		// Neither listener serves the other's methods.
		if err := unary(method, &emptypb.Empty{})(t, with(t, agent), agents); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s at the agent listener: %v", method, err)
		}
	}
	b.privateAPI(dial, agents, api, agent, rails)
	for method := range agentMethods {
		if err := unary(method, &emptypb.Empty{})(t, with(t, rails), api); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s at the API for Rails: %v", method, err)
		}
	}
}

// privateAPI: nobody but another kas may reach an agent there, and nobody at all elsewhere.
func (b *beside) privateAPI(dial func(string) *grpc.ClientConn, agents, api *grpc.ClientConn, agent, rails string) {
	t := b.t
	t.Helper()
	peers := dial("unix:" + b.private)
	peer := "Bearer " + b.peerToken(privateKey, jwt.SigningMethodHS256, nil)
	for _, method := range privateMethods {
		refused := b.strangers()
		refused["agent"], refused["Rails"] = agent, rails
		refused["another issuer"] = "Bearer " + b.peerToken(privateKey, jwt.SigningMethodHS256, func(c jwt.MapClaims) { c["iss"] = "gitlab-agent" })
		refused["another audience"] = "Bearer " + b.peerToken(privateKey, jwt.SigningMethodHS256, func(c jwt.MapClaims) { c["aud"] = "gitlab" })
		refused["expired token of a kas"] = "Bearer " + b.peerToken(privateKey, jwt.SigningMethodHS256, func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() })
		refused["unsigned token of a kas"] = "Bearer " + b.peerToken(jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, nil)
		for who, authorization := range refused {
			if err := stream(method, &emptypb.Empty{})(t, with(t, authorization), peers); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: %v", method, who, err)
			}
		}
		if err := stream(method, &emptypb.Empty{})(t, with(t, peer), peers); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s as another kas, without an agent's id: %v", method, err)
		}
		for name, conn := range map[string]*grpc.ClientConn{"agent listener": agents, "API for Rails": api} {
			for _, authorization := range []string{agent, rails, peer} {
				ctx := metadata.AppendToOutgoingContext(with(t, authorization), "kas-hop-routing-agent-id", "7")
				if err := stream(method, &emptypb.Empty{})(t, ctx, conn); status.Code(err) != codes.Unimplemented && status.Code(err) != codes.Unauthenticated {
					t.Errorf("%s at the %s: %v", method, name, err)
				}
			}
		}
	}
	for _, method := range railsMethods {
		if err := unary(method, &emptypb.Empty{})(t, with(t, peer), peers); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s at the private API: %v", method, err)
		}
	}
}

// Every HTTP route and what it asks for. The observability listener is open by design: it is for the inside of a network.
func TestAuthentication_EveryRoute(t *testing.T) {
	b := besideGitLab(t, "")
	b.ready()
	get := func(method, url, authorization string) int {
		req, err := http.NewRequestWithContext(timeout(t), method, url, nil)
		must(t, err)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		must(t, err)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	observability := b.metrics[:len(b.metrics)-len("/metrics")]
	for route, want := range map[string]int{
		b.metrics: 200, observability + "/liveness": 200, observability + "/readiness": 200, observability + "/debug/pprof/symbol": 200, observability + "/debug/pprof/cmdline": 404, observability + "/": 404,
		"http://" + b.agentAddr + "/": 426, "http://" + b.agentAddr + "/metrics": 426, b.proxy + "/": 401, b.proxy + "/api": 401, b.proxy[:len(b.proxy)-len("/k8s-proxy")] + "/metrics": 400,
	} {
		if got := get(http.MethodGet, route, ""); got != want {
			t.Errorf("GET %s without credentials: %d, want %d", route, got, want)
		}
	}
	if got := get(http.MethodOptions, b.proxy+"/api", ""); got != 200 {
		t.Errorf("preflight: %d", got)
	}
	refused := b.strangers()
	refused["agent"] = "Bearer " + b.token.Value
	refused["agent as a job"] = "Bearer ci:7:" + b.token.Value
	refused["agent as a user"] = "Bearer pat:7:" + b.token.Value
	refused["Rails"] = "Bearer " + b.railsToken(b.gl.Secret, jwt.SigningMethodHS256, nil)
	refused["job token as a user's"] = "Bearer pat:7:" + b.job.Token
	delete(refused, "proxy credential") // that is what it is for: see below
	for who, authorization := range refused {
		if got := get(http.MethodGet, b.proxy+"/api", authorization); got != http.StatusUnauthorized {
			t.Errorf("proxy with %s: %d", who, got)
		}
	}
	// A user's token is no job's: GitLab says that there is none such.
	if got := get(http.MethodGet, b.proxy+"/api", "Bearer ci:7:"+b.pat.Value); got != http.StatusNotFound {
		t.Errorf("proxy with a user's token as a job's: %d", got)
	}
}
