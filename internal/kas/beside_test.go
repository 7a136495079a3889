package kas_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/gitlabaccess"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/kas/config"
	"gitlab.com/agentk/agentk/test/gitlab"
	"gitlab.com/agentk/agentk/test/redis"
)

// beside is a kas beside a GitLab with a project, an agent and people.
type beside struct {
	t         *testing.T
	gl        *gitlab.GitLab
	agent     gitlab.Agent
	token     gitlab.Token
	job       gitlab.Job
	pat       gitlab.PAT
	agentAddr string
	proxy     string
	metrics   string
	private   string // socket of the private API
	redis     *redis.Server
	name      string // starts the names of its sockets
	log       *logBuffer
}

// privateKey is what the replicas of kas share.
var privateKey = []byte("the key of the private API, 32 B!")

const besideConfig = "ci_access: {projects: [{id: acme/infra, access_as: {ci_job: {}}}]}\nuser_access: {access_as: {user: {}}, projects: [{id: acme/infra}]}\n"

// besideGitLab starts both. more is laid over the configuration of kas.
func besideGitLab(t *testing.T, more string) *beside {
	t.Helper()
	return besideVersion(t, "", more)
}

// besideVersion is besideGitLab with a GitLab of a version.
func besideVersion(t *testing.T, version, more string) *beside {
	t.Helper()
	gl, err := gitlab.Start(t.Context(), gitlab.Config{Version: version, Settings: gitlab.Settings{Tier: gitlab.Ultimate}})
	must(t, err)
	t.Cleanup(gl.Stop)
	b := &beside{t: t, gl: gl, agentAddr: freeAddress(t), log: &logBuffer{}, redis: redis.StartT(t, redis.Config{})}
	_, err = gl.AddUser(gitlab.User{ID: 3, Username: "ci-user"})
	must(t, err)
	_, err = gl.AddProject(t.Context(), gitlab.Project{ID: 10, Path: "acme/infra"})
	must(t, err)
	must(t, gl.AddMember("ci-user", "acme/infra", gitlab.Developer))
	b.agent, err = gl.AddAgent(gitlab.Agent{ID: 7, Name: "edge", Project: "acme/infra"})
	must(t, err)
	b.token, err = gl.CreateToken(7)
	must(t, err)
	b.job, err = gl.AddJob(gitlab.Job{ID: 1001, Project: "acme/infra", User: "ci-user"})
	must(t, err)
	b.pat, err = gl.AddPAT(gitlab.PAT{Username: "ci-user", Scopes: []string{"k8s_proxy"}})
	must(t, err)
	_, err = gl.PushConfig(t.Context(), 7, besideConfig)
	must(t, err)
	b.start(more)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *beside) start(more string) {
	b.t.Helper()
	dir := b.t.TempDir()
	proxy, observe := freeAddress(b.t), freeAddress(b.t)
	api := filepath.Join(b.gl.Dir, b.name+"api.sock")
	b.proxy, b.metrics = "http://"+proxy+"/k8s-proxy", "http://"+observe+"/metrics"
	overlay := filepath.Join(dir, "overlay")
	must(b.t, os.WriteFile(overlay, []byte(more), 0o600))
	b.private = filepath.Join(b.gl.Dir, b.name+"private.sock")
	secret := filepath.Join(dir, "private_secret")
	must(b.t, os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(privateKey)), 0o600))
	file := filepath.Join(dir, "kas.yaml")
	must(b.t, os.WriteFile(file, fmt.Appendf(nil, `
gitlab: {address: %[1]q, authentication_secret_file: %[2]q}
redis: {server: {address: %[8]q}}
api: {listen: {network: unix, address: %[3]q, authentication_secret_file: %[2]q}}
private_api: {listen: {network: unix, address: %[9]q, authentication_secret_file: %[10]q}}
agent:
  listen: {address: %[4]q, websocket: true}
  kubernetes_api: {listen: {address: %[5]q}, url_path_prefix: /k8s-proxy/}
observability: {listen: {address: %[6]q}, usage_reporting_period: 0.1s, event_reporting_period: 0.1s}
config: {command: "cat %[7]s"}
`, b.gl.URL, b.gl.SecretFile, api, b.agentAddr, proxy, observe, overlay,
		b.redis.Address(), b.private, secret), 0o600))
	cfg, err := config.Load(b.t.Context(), file)
	must(b.t, err)
	quick(cfg)
	b.gl.Change(func(s *gitlab.Settings) { s.Kas.InternalURL = "unix:" + api })
	serve(b.t, cfg, b.log)
}

func (b *beside) eventually(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("does not happen: %s", what)
		}
	}
}

// configurations opens the stream on which an agent gets its configuration.
func (b *beside) configurations(conn *grpc.ClientConn) grpc.ServerStreamingClient[agentconfiguration.ConfigurationResponse] {
	b.t.Helper()
	stream, err := agentconfiguration.NewAgentConfigurationClient(conn).GetConfiguration(timeout(b.t),
		&agentconfiguration.ConfigurationRequest{AgentMeta: stockMeta, SkipRegister: true})
	must(b.t, err)
	return stream
}

// configured lets kas tell GitLab the configuration, as a connected agent does.
func (b *beside) configured(conn *grpc.ClientConn) {
	b.t.Helper()
	_, err := b.configurations(conn).Recv()
	must(b.t, err)
	b.eventually("GitLab knows the configuration", func() bool { _, posts, _ := b.gl.Configuration(7); return posts > 0 })
}

// answerOne parks a stream and answers one request with the headers in kv. It returns what the cluster would have got.
func answerOne(t *testing.T, conn *grpc.ClientConn, kv ...string) <-chan *grpctool.HttpRequest_Header {
	t.Helper()
	stream := park(t, conn)
	got := make(chan *grpctool.HttpRequest_Header, 1)
	var header []*prototool.KeyValues
	for i := 0; i < len(kv); i += 2 {
		header = append(header, &prototool.KeyValues{Key: []byte(kv[i]), Value: &prototool.Values{Value: [][]byte{[]byte(kv[i+1])}}})
	}
	go func() {
		defer close(got)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			f := &grpctool.HttpRequest{}
			if m.GetMessage() != nil && proto.Unmarshal(m.GetMessage().GetData(), f) == nil && f.GetHeader() != nil {
				got <- f.GetHeader()
			}
			if m.GetCloseSend() != nil {
				break
			}
		}
		for _, m := range []*reversetunnel.ConnectRequest{
			{Msg: &reversetunnel.ConnectRequest_Header{Header: &reversetunnel.Header{}}},
			message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
				Response: &prototool.HttpResponse{StatusCode: 200, Status: "200 OK", Header: header},
			}}}),
			message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Data_{Data: &grpctool.HttpResponse_Data{Data: []byte("hello")}}}),
			message(t, &grpctool.HttpResponse{Message: &grpctool.HttpResponse_Trailer_{Trailer: &grpctool.HttpResponse_Trailer{}}}),
			{Msg: &reversetunnel.ConnectRequest_Trailer{Trailer: &reversetunnel.Trailer{}}},
		} {
			if stream.Send(m) != nil {
				return
			}
		}
		_ = stream.CloseSend()
		_, _ = stream.Recv()
	}()
	return got
}

// request sends a request to the proxy with headers in pairs.
func (b *beside) request(header ...string) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(timeout(b.t), http.MethodGet, b.proxy+"/version", nil)
	must(b.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	must(b.t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(b.t, err)
	return resp, string(body)
}

func (b *beside) ciBearer() string { return "Bearer ci:7:" + b.job.Token }

func TestBeside_PushIsLiveAtOnceAndReported(t *testing.T) {
	b := besideGitLab(t, "")
	stream := b.configurations(dialAsStock(t, b.agentAddr, b.token.Value))
	first, err := stream.Recv()
	must(t, err)
	c := first.Configuration
	if c.AgentId != 7 || c.ProjectId != 10 || c.ProjectPath != "acme/infra" || c.GitlabExternalUrl != b.gl.URL || len(c.CiAccess.Projects) != 1 {
		t.Errorf("got %v", c)
	}
	b.eventually("the configuration is posted", func() bool { _, posts, _ := b.gl.Configuration(7); return posts == 1 })

	_, err = b.gl.PushConfig(t.Context(), 7, "")
	must(t, err)
	second, err := stream.Recv() // kas looks by itself every five minutes only, which is more than the stream's time
	must(t, err)
	if second.Configuration.CiAccess != nil {
		t.Errorf("got %v", second.Configuration)
	}
	b.eventually("the empty configuration is posted too", func() bool {
		file, posts, _ := b.gl.Configuration(7)
		return posts == 2 && len(file) == 0
	})
	if status := b.gl.AgentStatus(7); status != "active" {
		t.Errorf("the agent is %s", status)
	}
}

func TestBeside_PollFindsWhatNobodyTold(t *testing.T) {
	b := besideGitLab(t, "agent: {configuration: {poll_period: 0.2s}}")
	b.gl.Change(func(s *gitlab.Settings) { s.NoPushNotification = true })
	stream := b.configurations(dialAsStock(t, b.agentAddr, b.token.Value))
	_, err := stream.Recv()
	must(t, err)
	_, err = b.gl.PushConfig(t.Context(), 7, "ci_access: {groups: [{id: acme}]}")
	must(t, err)
	got, err := stream.Recv()
	must(t, err)
	if len(got.Configuration.CiAccess.Groups) != 1 {
		t.Errorf("got %v", got.Configuration)
	}
}

func TestBeside_ListOverTheCapIsReported(t *testing.T) {
	b := besideGitLab(t, "")
	var long strings.Builder
	long.WriteString("ci_access: {groups: [")
	for i := range 501 {
		fmt.Fprintf(&long, "{id: acme/g%d},", i)
	}
	_, err := b.gl.PushConfig(t.Context(), 7, long.String()+"]}")
	must(t, err)
	got, err := b.configurations(dialAsStock(t, b.agentAddr, b.token.Value)).Recv()
	must(t, err)
	if len(got.Configuration.CiAccess.Groups) != 501 {
		t.Errorf("%d groups", len(got.Configuration.CiAccess.Groups))
	}
	b.eventually("a line in the log", func() bool {
		return strings.Contains(b.log.String(), "ci_access.groups has 501 entries, GitLab uses 500")
	})
}

func TestBeside_PostIsRepeated(t *testing.T) {
	b := besideGitLab(t, "")
	b.gl.Break(gitlab.AgentConfiguration, gitlab.Fault{Status: http.StatusServiceUnavailable, Times: 3})
	b.configured(dialAsStock(t, b.agentAddr, b.token.Value))
}

func TestBeside_Job(t *testing.T) {
	b := besideGitLab(t, "")
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	b.configured(conn)
	got := answerOne(t, conn, "Location", "/x", "Set-Cookie", "evil")
	resp, body := b.request("Authorization", b.ciBearer())
	if resp.StatusCode != 200 || body != "hello" || resp.Header.Get("Location") != "/x" || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("%v %q", resp, body)
	}
	if name := identityOf(t, <-got); name != "gitlab:ci_job:1001" {
		t.Errorf("identity %q", name)
	}
	b.eventually("usage is reported", func() bool {
		return b.gl.Counters()["k8s_api_proxy_requests_via_ci_access"] == 1 && len(b.gl.Events("k8s_api_proxy_requests_unique_users_via_ci_access")) == 1
	})
	for bearer, want := range map[string]int{"Bearer ci:8:" + b.job.Token: 403, "Bearer ci:7:other": 401, "Bearer ci:7:" + b.pat.Value: 404} {
		if resp, body := b.request("Authorization", bearer); resp.StatusCode != want {
			t.Errorf("%v %q, want %d", resp, body, want)
		}
	}
}

func TestBeside_User(t *testing.T) {
	b := besideGitLab(t, "")
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	b.configured(conn)
	session, err := b.gl.SignIn("ci-user")
	must(t, err)
	cookie := func(csrf string) []string {
		return []string{"Cookie", gitlab.CookieName + "=" + session.Cookie, "Gitlab-Agent-Id", "7", "X-Csrf-Token", csrf, "Origin", b.gl.URL}
	}
	for name, header := range map[string][]string{"token": {"Authorization", "Bearer pat:7:" + b.pat.Value}, "session": cookie(session.CSRFToken())} {
		got := answerOne(t, conn, "Location", "/x", "Content-Type", "text/html")
		resp, body := b.request(header...)
		sandboxed := resp.Header.Get("Content-Security-Policy") != "" && resp.Header.Get("Location") == "" && resp.Header.Get("Access-Control-Allow-Origin") == b.gl.URL
		if resp.StatusCode != 200 || body != "hello" || sandboxed != (name == "session") {
			t.Errorf("%s: %v %q", name, resp, body)
		}
		if user := identityOf(t, <-got); user != "gitlab:user:ci-user" {
			t.Errorf("%s: identity %q", name, user)
		}
	}
	session.SignOut()
	other, err := b.gl.AddPAT(gitlab.PAT{Username: "ci-user", Scopes: []string{"read_api"}})
	must(t, err)
	for name, header := range map[string][]string{
		"signed out": cookie(session.CSRFToken()), "no scope": {"Authorization", "Bearer pat:7:" + other.Value}, "unknown agent": {"Authorization", "Bearer pat:8:" + b.pat.Value},
	} {
		resp, body := b.request(header...)
		if resp.StatusCode != 401 || resp.Header.Get("Gitlab-Unauthorized") != "true" || !strings.Contains(body, `"GitLab Agent Server: Unauthorized"`) {
			t.Errorf("%s: %v %q", name, resp, body)
		}
	}
	garbled := cookie(session.CSRFToken())
	garbled[1] = gitlab.CookieName + "=garbled"
	if resp, body := b.request(garbled...); resp.StatusCode != 500 || !strings.Contains(body, `"GitLab Agent Server: Failed to authorize user session"`) {
		t.Errorf("what GitLab answers with 400: %v %q", resp, body)
	}
}

func identityOf(t *testing.T, h *grpctool.HttpRequest_Header) string {
	t.Helper()
	return impersonation(t, h).GetUsername()
}

func TestBeside_RevokedTokenIsCutOff(t *testing.T) {
	b := besideGitLab(t, "agent: {info_cache_ttl: 1s, info_cache_error_ttl: 1s}")
	second, err := b.gl.CreateToken(7)
	must(t, err)
	bad, good := dialAsStock(t, b.agentAddr, b.token.Value), dialAsStock(t, b.agentAddr, second.Value)
	revoked := park(t, bad)
	configuration, err := agentconfiguration.NewAgentConfigurationClient(bad).GetConfiguration(timeout(t),
		&agentconfiguration.ConfigurationRequest{AgentMeta: stockMeta, SkipRegister: true})
	must(t, err)
	_, err = configuration.Recv()
	must(t, err)
	b.configured(good)
	must(t, b.gl.RevokeToken(b.token.ID))
	if _, err := revoked.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the tunnel of the revoked token: %v", err)
	}
	if _, err := configuration.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the configuration of the revoked token: %v", err)
	}
	// The other token serves on.
	answerOne(t, good)
	if resp, body := b.request("Authorization", b.ciBearer()); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("%v %q", resp, body)
	}
	must(t, b.gl.DeleteAgent(7))
	err = fmt.Errorf("none")
	b.eventually("the deleted agent is refused", func() bool {
		_, err = agentregistrar.NewAgentRegistrarClient(good).Register(timeout(t), &agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 1})
		return status.Code(err) == codes.Unauthenticated
	})
}

// What is cached is served while GitLab hangs.
func TestBeside_GitLabHangs(t *testing.T) {
	b := besideGitLab(t, "")
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	b.configured(conn)
	answerOne(t, conn)
	if resp, body := b.request("Authorization", b.ciBearer()); resp.StatusCode != 200 {
		t.Fatalf("%v %q", resp, body)
	}
	for _, e := range []gitlab.Endpoint{gitlab.AgentInfo, gitlab.AllowedAgents, gitlab.UsageMetrics, gitlab.AgentEvents} {
		b.gl.Break(e, gitlab.Fault{Hang: true})
	}
	began := time.Now()
	answerOne(t, conn)
	if resp, body := b.request("Authorization", b.ciBearer()); resp.StatusCode != 200 {
		t.Errorf("%v %q", resp, body)
	}
	if _, err := agentregistrar.NewAgentRegistrarClient(conn).Register(timeout(t), &agentregistrar.RegisterRequest{AgentMeta: stockMeta, PodId: 1}); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 15*time.Second { // kas gives up on a GitLab that hangs after twenty
		t.Errorf("took %s", took)
	}
}

func TestBeside_RailsSeesTheAgent(t *testing.T) {
	b := besideGitLab(t, "")
	conn := dialAsStock(t, b.agentAddr, b.token.Value)
	for pod, name := range []string{"agentk-lab-abcde", "agentk-lab-fghij"} {
		meta := proto.CloneOf(stockMeta)
		meta.PodName = name
		meta.PodNamespace = fmt.Sprint("gitlab-agent-", pod)
		_, err := agentregistrar.NewAgentRegistrarClient(conn).Register(timeout(t), &agentregistrar.RegisterRequest{AgentMeta: meta, PodId: int64(pod + 1)})
		must(t, err)
	}
	var agents []string
	found, err := b.gl.Kas().ConnectedAgents(t.Context(), 7)
	must(t, err)
	for _, a := range found {
		agents = append(agents, a.AgentMeta.PodName)
	}
	if len(agents) != 2 {
		t.Errorf("connected: %q", agents)
	}
	files, err := b.gl.Kas().AgentConfigFiles(t.Context(), "acme/infra")
	must(t, err)
	if len(files) != 1 || files[0].AgentName != "edge" || files[0].Name != ".gitlab/agents/edge/config.yaml" {
		t.Errorf("files %v", files)
	}
	if !strings.Contains(b.log.String(), "installed more than once") {
		t.Error("one token in two installations is not reported")
	}
	b.eventually("the registration is reported", func() bool { return len(b.gl.Events("register_agent_at_kas")) > 0 })
}

// module sends a module's request on behalf of an agent, and returns status and body of the answer.
func module(t *testing.T, ctx context.Context, conn *grpc.ClientConn, name, path string) (int32, string, error) {
	t.Helper()
	stream, err := gitlabaccess.NewGitlabAccessClient(conn).MakeRequest(ctx)
	must(t, err)
	extra, err := anypb.New(&gitlabaccess.HeaderExtra{ModuleName: name})
	must(t, err)
	for _, frame := range []*grpctool.HttpRequest{
		{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
			Request: &prototool.HttpRequest{Method: "GET", UrlPath: path}, Extra: extra,
		}}},
		{Message: &grpctool.HttpRequest_Trailer_{Trailer: &grpctool.HttpRequest_Trailer{}}},
	} {
		if err := stream.Send(frame); !errors.Is(err, io.EOF) { // EOF: kas has refused already, Recv says why
			must(t, err)
		}
	}
	must(t, stream.CloseSend())
	var code int32
	var body strings.Builder
	for {
		m, err := stream.Recv()
		if err == io.EOF { //nolint:errorlint // gRPC gives it as it is
			return code, body.String(), nil
		}
		if err != nil {
			return code, "", err
		}
		if h := m.GetHeader(); h != nil {
			code = h.GetResponse().GetStatusCode()
		}
		body.Write(m.GetData().GetData())
	}
}

func TestBeside_ModulesReachGitLab(t *testing.T) {
	b := besideGitLab(t, "")
	seen := make(chan *http.Request, 1)
	b.gl.Change(func(s *gitlab.Settings) {
		s.Modules = map[string]http.Handler{"remote_development": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- r
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, "{}")
		})}
	})
	code, body, err := module(t, timeout(t), dialAsStock(t, b.agentAddr, b.token.Value), "remote_development", "/reconcile")
	if code != http.StatusCreated || body != "{}" || err != nil {
		t.Fatalf("%d %q %v", code, body, err)
	}
	if diff := cmp.Diff("/reconcile", (<-seen).URL.Path); diff != "" {
		t.Error(diff)
	}
}

func TestStandalone_ModulesFindNothing(t *testing.T) {
	addr, _ := startKas(t)
	code, _, err := module(t, timeout(t), dialAsStock(t, addr, agentToken), "remote_development", "/reconcile")
	if code != http.StatusNotFound || err != nil {
		t.Errorf("%d %v", code, err)
	}
}
