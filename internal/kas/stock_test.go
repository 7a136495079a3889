package kas_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/api/reversetunnel/info"
	"gitlab.com/agentk/agentk/internal/kas"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/internal/standalone"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/test/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	agentToken = "glagent-stock-agent-token"
	jobToken   = "stock-job-token"
	patience   = time.Minute
)

// startKas runs kas in this process and returns the addresses of its agent and proxy listeners.
func startKas(t *testing.T) (agentAddr, proxyURL string) {
	t.Helper()
	dir := t.TempDir()
	gitRepository(t, filepath.Join(dir, "acme", "infra.git"))
	k := startStandalone(t, dir, "")
	return k.agentAddr, k.proxyURL
}

// running is a kas in this process.
type running struct {
	agentAddr, proxyURL, socket string
	log                         *logBuffer
	// stop stops it and waits for its end; it may be called again.
	stop func()
}

// startStandalone runs kas with a folder of repositories; more is added to its configuration file.
func startStandalone(t *testing.T, repositories, more string) *running {
	t.Helper()
	dir := t.TempDir()
	proxyAddr := freeAddress(t)
	k := &running{agentAddr: freeAddress(t), proxyURL: "http://" + proxyAddr + "/k8s-proxy", socket: filepath.Join(dir, "observability.sock"), log: &logBuffer{}}
	file := filepath.Join(dir, "kas.yaml")
	content := fmt.Sprintf(`
agent:
  listen: {address: %q, websocket: true, listen_grace_period: 0.01s}
  kubernetes_api: {listen: {address: %q, listen_grace_period: 0.01s, shutdown_grace_period: 0.01s}, url_path_prefix: /k8s-proxy/}
observability: {listen: {network: unix, address: %q}}
standalone:
  repositories_dir: %q
  projects: [{id: 10, path: acme/infra, groups: [{id: 1, path: acme}]}]
  agents: [{id: 7, name: stock, project: acme/infra, token_sha256: [%s]}]
  jobs: [{id: 1001, token_sha256: %s, pipeline: 2001, project: acme/infra, user: {id: 3, username: ci-user}}]
`, k.agentAddr, proxyAddr, k.socket, repositories, standalone.HashToken(agentToken), standalone.HashToken(jobToken))
	if err := os.WriteFile(file, []byte(content+more), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	log, err := telemetry.NewLog(telemetry.LogConfig{Output: io.MultiWriter(testWriter{t}, k.log), Level: zapcore.DebugLevel})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- kas.Run(ctx, cfg, log) }()
	var once sync.Once
	k.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(k.stop)
	return k
}

// testWriter shows the log of kas with the test's own output.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	fmt.Fprintf(w.t.Output(), "%s", p)
	return len(p), nil
}

// freeAddress is an address that nobody listens on at the moment, and that no outgoing connection gets.
func freeAddress(t *testing.T) string {
	t.Helper()
	ports, err := line.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", ports[0])
}

// gitRepository makes a bare repository with one commit that configures agent "stock".
func gitRepository(t *testing.T, bare string) {
	t.Helper()
	work := t.TempDir()
	config := filepath.Join(work, ".gitlab", "agents", "stock", "config.yaml")
	if err := os.MkdirAll(filepath.Dir(config), 0o755); err != nil {
		t.Fatal(err)
	}
	content := "ci_access:\n  projects:\n  - id: acme/infra\n    access_as: {ci_job: {}}\n"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", bare},
		{"-C", work, "init", "-q", "-b", "main"},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "configure"},
		{"-C", work, "push", "-q", bare, "main"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// dialAsStock is a channel as a stock agent has it: gzip on every call, wait-for-ready, the token on every RPC.
func dialAsStock(t *testing.T, addr, token string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(bearer(token)),
		grpc.WithUserAgent("gitlab-agent/v16.6.0/8daa08cc"),
		grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name), grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

var stockMeta = &entity.AgentMeta{
	Version: "v16.6.0", CommitId: "8daa08cc", PodNamespace: "gitlab-agent", PodName: "agentk-lab-1", KubernetesVersion: &entity.KubernetesVersion{},
}

func TestStockAgent_ConfigurationAndRegistration(t *testing.T) {
	addr, _ := startKas(t)
	conn := dialAsStock(t, addr, agentToken)
	stream, err := agentconfiguration.NewAgentConfigurationClient(conn).GetConfiguration(timeout(t),
		&agentconfiguration.ConfigurationRequest{AgentMeta: stockMeta, SkipRegister: true})
	if err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	c := got.Configuration
	if len(got.CommitId) != 40 || c.AgentId != 7 || c.ProjectId != 10 || c.ProjectPath != "acme/infra" || c.CiAccess.Projects[0].Id != "acme/infra" {
		t.Errorf("got commit %q and configuration %v", got.CommitId, c)
	}
	header, err := stream.Header()
	if err != nil {
		t.Fatal(err)
	}
	if enc := header.Get("grpc-encoding"); len(enc) > 0 && enc[0] == gzip.Name {
		t.Error("kas answers with gzip")
	}
	registrar := agentregistrar.NewAgentRegistrarClient(conn)
	if _, err := registrar.Register(timeout(t), &agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 3751425458528394219}); err != nil {
		t.Error(err)
	}
	if _, err := registrar.Unregister(timeout(t), &agentregistrar.UnregisterRequest{AgentMeta: stockMeta, PodId: 3751425458528394219}); err != nil {
		t.Error(err)
	}
}

// Agents from 18.5 on tell a configuration stream nothing about themselves; nothing of the rest is mandatory either.
func TestStockAgent_SaysNothingOfItself(t *testing.T) {
	addr, _ := startKas(t)
	conn := dialAsStock(t, addr, agentToken)
	stream, err := agentconfiguration.NewAgentConfigurationClient(conn).GetConfiguration(timeout(t), &agentconfiguration.ConfigurationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stream.Recv(); err != nil || got.Configuration.GetAgentId() != 7 {
		t.Errorf("%v, %v", got, err)
	}
	registrar := agentregistrar.NewAgentRegistrarClient(conn)
	if _, err := registrar.Register(timeout(t), &agentregistrar.RegisterRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := registrar.Unregister(timeout(t), &agentregistrar.UnregisterRequest{}); err != nil {
		t.Error(err)
	}
}

func TestStockAgent_ServicesThatDoNotExist(t *testing.T) {
	addr, _ := startKas(t)
	conn := dialAsStock(t, addr, agentToken)
	err := conn.Invoke(timeout(t), "/gitlab.agent.job_router.rpc.JobRouter/GetJob", &agentregistrar.RegisterRequest{}, &agentregistrar.RegisterResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestStockAgent_WrongToken(t *testing.T) {
	addr, _ := startKas(t)
	conn := dialAsStock(t, addr, "glagent-wrong")
	_, err := agentregistrar.NewAgentRegistrarClient(conn).Register(timeout(t), &agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 1})
	if st := status.Convert(err); st.Code() != codes.Unauthenticated || !strings.HasPrefix(st.Message(), "unauthenticated") {
		t.Errorf("got %v", err)
	}
}

// park opens a tunnel stream as a stock agent does: a descriptor with one service, nothing else.
func park(t *testing.T, conn *grpc.ClientConn) grpc.BidiStreamingClient[reversetunnel.ConnectRequest, reversetunnel.ConnectResponse] {
	t.Helper()
	stream, err := reversetunnel.NewReverseTunnelClient(conn).Connect(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Descriptor_{Descriptor_: &reversetunnel.Descriptor{
		AgentDescriptor: &info.AgentDescriptor{Services: []*info.Service{{
			Name: "gitlab.agent.kubernetes_api.rpc.KubernetesApi", Methods: []*info.Method{{Name: "MakeRequest"}},
		}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// ask sends a job's request to the proxy.
func ask(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer ci:7:"+jobToken)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func message(t *testing.T, m proto.Message) *reversetunnel.ConnectRequest {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Message{Message: &reversetunnel.Message{Data: data}}}
}

func TestStockAgent_OneRequest(t *testing.T) {
	addr, proxy := startKas(t)
	stream := park(t, dialAsStock(t, addr, agentToken))
	type answer struct {
		resp *http.Response
		body string
	}
	answered := make(chan answer, 1)
	go func() {
		resp, body := ask(t, proxy+"/version?b=2&a=1")
		answered <- answer{resp, body}
	}()

	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	requestInfo := first.GetRequestInfo()
	if requestInfo.GetMethodName() != "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest" {
		t.Fatalf("first message %v", first)
	}
	for _, kv := range requestInfo.Meta {
		if string(kv.Key) == "authorization" {
			t.Error("a credential travels to the agent")
		}
	}
	checkRequest(t, stream)

	for _, m := range []*reversetunnel.ConnectRequest{
		{Msg: &reversetunnel.ConnectRequest_Header{Header: &reversetunnel.Header{Meta: []*prototool.KeyValues{{
			Key: []byte("content-type"), Value: &prototool.Values{Value: [][]byte{[]byte("application/grpc+proto")}},
		}}}}},
		message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
			Response: &prototool.HttpResponse{StatusCode: 200, Status: "200 OK"},
		}}}),
		message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Data_{Data: &grpctool.HttpResponse_Data{Data: []byte("hello ")}}}),
		message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Data_{Data: &grpctool.HttpResponse_Data{Data: []byte("job")}}}),
		message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Trailer_{Trailer: &grpctool.HttpResponse_Trailer{}}}),
		{Msg: &reversetunnel.ConnectRequest_Trailer{Trailer: &reversetunnel.Trailer{}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got := <-answered
	if got.resp.StatusCode != http.StatusOK || got.body != "hello job" {
		t.Errorf("the job got %s: %q", got.resp.Status, got.body)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the tunnel ended with %v, want OK", err)
	}
}

// checkRequest reads what follows RequestInfo: the request's header, its trailer, and the half-close.
func checkRequest(t *testing.T, stream grpc.BidiStreamingClient[reversetunnel.ConnectRequest, reversetunnel.ConnectResponse]) {
	t.Helper()
	var frames []*grpctool.HttpRequest
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetCloseSend() != nil {
			break
		}
		f := &grpctool.HttpRequest{}
		if err := proto.Unmarshal(m.GetMessage().GetData(), f); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	if len(frames) != 2 || frames[0].GetHeader() == nil || frames[1].GetTrailer() == nil {
		t.Fatalf("frames %v", frames)
	}
	h := frames[0].GetHeader()
	if h.ContentLength == nil || *h.ContentLength != 0 {
		t.Errorf("content length %v, want 0", h.ContentLength)
	}
	if h.Request.Method != "GET" || h.Request.UrlPath != "/version" || len(h.Request.Query) != 2 {
		t.Errorf("request %v", h.Request)
	}
	if c := impersonation(t, h); c.Username != "gitlab:ci_job:1001" || !slices.Equal(c.Groups, []string{"gitlab:ci_job", "gitlab:group:1", "gitlab:project:10"}) {
		t.Errorf("identity %v", c)
	}
}

// impersonation is who a request becomes in the cluster.
func impersonation(t *testing.T, h *grpctool.HttpRequest_Header) *kubernetesapi.ImpersonationConfig {
	t.Helper()
	extra := &kubernetesapi.HeaderExtra{}
	if err := h.GetExtra().UnmarshalTo(extra); err != nil {
		t.Fatal(err)
	}
	if h.Extra.TypeUrl != "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra" || extra.EscapedPath != "" {
		t.Errorf("extra %v", h.Extra)
	}
	return extra.ImpConfig
}

// TestStockAgent_EncodedSlash: a stock agent would give the path another meaning, so it never gets it.
func TestStockAgent_EncodedSlash(t *testing.T) {
	addr, proxy := startKas(t)
	conn := dialAsStock(t, addr, agentToken)
	stream := park(t, conn)
	deadline := time.Now().Add(patience)
	for {
		resp, body := ask(t, proxy+"/api/v1/namespaces/default/configmaps/a%2Fb")
		if resp.StatusCode == http.StatusBadRequest && strings.Contains(body, "BadRequest") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %s: %s", resp.Status, body)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	cancelled := make(chan struct{})
	go func() { defer close(cancelled); _, _ = stream.Recv() }()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	<-cancelled
}
