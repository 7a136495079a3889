package k8sproxy_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
	"gitlab.com/agentk/agentk/internal/route"
)

// net/http lingers for half a second on a connection that it closes for a rest of a body.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const (
	patience = time.Minute
	origin   = "https://gl.test"
	jobToken = "canary-job-token"
	ciBearer = "Bearer ci:7:" + jobToken
)

// jobs answers for GitLab.
type jobs struct {
	mu     sync.Mutex
	hits   int
	tokens []string
	answer func(ctx context.Context, token string) (*gitlabapi.AllowedAgentsForJob, error)
}

func (j *jobs) AllowedAgents(ctx context.Context, token string) (*gitlabapi.AllowedAgentsForJob, error) {
	j.mu.Lock()
	j.hits++
	j.tokens = append(j.tokens, token)
	answer := j.answer
	j.mu.Unlock()
	if answer == nil {
		return allowed(nil), nil
	}
	return answer(ctx, token)
}

func (j *jobs) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.hits
}

// users answers for GitLab.
type users struct {
	mu    sync.Mutex
	asked []*gitlabapi.AuthorizeProxyUserRequest
	err   error
	// as and name change the answer.
	as   *gitlabapi.AccessAsProxyAuthorization
	name string
}

func (u *users) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

func (u *users) AuthorizeUser(_ context.Context, q *gitlabapi.AuthorizeProxyUserRequest) (*gitlabapi.AuthorizeProxyUserResponse, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = append(u.asked, q)
	if u.err != nil {
		return nil, u.err
	}
	as := u.as
	if as == nil {
		as = &gitlabapi.AccessAsProxyAuthorization{AccessAs: &gitlabapi.AccessAsProxyAuthorization_User{
			User: &gitlabapi.AccessAsUserAuthorization{Projects: []*gitlabapi.ProjectAccessCF{{Id: 1, Roles: []string{"developer"}}}},
		}}
	}
	return &gitlabapi.AuthorizeProxyUserResponse{
		Agent:    &gitlabapi.AuthorizedAgentForUser{Id: 7, ConfigProject: &gitlabapi.ConfigProject{Id: 31}},
		User:     &gitlabapi.User{Id: 3, Username: cmp.Or(u.name, "ci-user")},
		AccessAs: as,
	}, nil
}

func allowed(as *agentcfg.CiAccessAsCF) *gitlabapi.AllowedAgentsForJob {
	return &gitlabapi.AllowedAgentsForJob{
		AllowedAgents: []*gitlabapi.AllowedAgent{{
			Id: 7, ConfigProject: &gitlabapi.ConfigProject{Id: 31}, Configuration: &gitlabapi.Configuration{AccessAs: as},
		}},
		Job:         &gitlabapi.Job{Id: 9001},
		Pipeline:    &gitlabapi.Pipeline{Id: 801},
		Project:     &gitlabapi.Project{Id: 42, Groups: []*gitlabapi.Group{{Id: 5}, {Id: 2}}},
		User:        &gitlabapi.User{Id: 3, Username: "ci-user"},
		Environment: &gitlabapi.Environment{Slug: "prod", Tier: "production"},
	}
}

func ciJob() *agentcfg.CiAccessAsCF {
	return &agentcfg.CiAccessAsCF{As: &agentcfg.CiAccessAsCF_CiJob{CiJob: &agentcfg.CiAccessAsCiJobCF{}}}
}

// line is a running proxy, its outside world and its agent.
type line struct {
	t      *testing.T
	url    string
	addr   string
	jobs   *jobs
	users  *users
	reg    *prometheus.Registry
	logs   *observer.ObservedLogs
	stop   context.CancelFunc
	served chan error
	proxy  *k8sproxy.Proxy

	mu     sync.Mutex
	play   func(a *agenttest.Agent) error
	refuse error
	routed []route.Request
	calls  []*agenttest.Call
}

func (l *line) Open(ctx context.Context, r route.Request) (route.Call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.routed = append(l.routed, r)
	if l.refuse != nil {
		return nil, l.refuse
	}
	call := agenttest.Start(l.t, ctx, l.play)
	l.calls = append(l.calls, call)
	return call, nil
}

func (l *line) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.routed)
}

func newLine(t *testing.T, play func(a *agenttest.Agent) error, edit ...func(*k8sproxy.Config)) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newLineAt(t, ln, play, edit...)
	l.url = "http://" + l.addr + "/k8s-proxy"
	return l
}

func newLineAt(t *testing.T, ln net.Listener, play func(a *agenttest.Agent) error, edit ...func(*k8sproxy.Config)) *line {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	l := &line{t: t, jobs: &jobs{}, users: &users{}, reg: prometheus.NewRegistry(), logs: logs, play: play, served: make(chan error, 1)}
	cfg := k8sproxy.Config{
		Log: zap.New(core), Registerer: l.reg, Opener: l, Jobs: l.jobs, Users: l.users, URLPathPrefix: "/k8s-proxy", AllowedOrigins: []string{origin},
		AllowedAgentCacheTTL: time.Minute, AllowedAgentCacheErrorTTL: 10 * time.Second, ListenGracePeriod: -1, ShutdownGracePeriod: -1,
	}
	for _, e := range edit {
		e(&cfg)
	}
	p, err := k8sproxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.addr = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	l.stop, l.proxy = stop, p
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.served <- p.Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		http.DefaultClient.CloseIdleConnections()
	})
	return l
}

// answer is a response read to its end.
type answer struct {
	*http.Response
	body string
	err  error
}

func (l *line) do(method, path string, header ...string) answer {
	l.t.Helper()
	return l.doBody(method, path, nil, header...)
}

func (l *line) doBody(method, path string, body io.Reader, header ...string) answer {
	l.t.Helper()
	return l.doWith(http.DefaultClient, method, path, body, header...)
}

// doWith is doBody with another client.
func (l *line) doWith(client *http.Client, method, path string, body io.Reader, header ...string) answer {
	l.t.Helper()
	req, err := http.NewRequest(method, l.url+path, body)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	return l.read(client, req)
}

func (l *line) read(client *http.Client, req *http.Request) answer {
	l.t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return answer{Response: resp, body: string(got), err: err}
}

// dial opens a raw connection.
func (l *line) dial() (net.Conn, *bufio.Reader) {
	l.t.Helper()
	conn, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn, bufio.NewReader(conn)
}

// raw sends text on a new connection and reads one response.
func (l *line) raw(text string) answer {
	l.t.Helper()
	conn, r := l.dial()
	_, _ = io.WriteString(conn, text)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	return answer{Response: resp, body: string(body), err: err}
}

type kubeStatus struct {
	Kind, APIVersion, Status, Message, Reason string
	Code                                      int
}

// wantStatus checks a Kubernetes Status; message is its text behind the prefix, or the beginning of it with a trailing "...".
func (a answer) wantStatus(t *testing.T, code int, reason, message string) {
	t.Helper()
	var s kubeStatus
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%d %q: %v", a.StatusCode, a.body, err)
	}
	want := kubeStatus{Kind: "Status", APIVersion: "v1", Status: "Failure", Reason: reason, Code: code, Message: "GitLab Agent Server: " + message}
	if beginning, ok := strings.CutSuffix(want.Message, "..."); ok && strings.HasPrefix(s.Message, beginning) {
		want.Message = s.Message
	}
	if s != want || a.StatusCode != code {
		t.Errorf("%d %+v\nwant %+v", a.StatusCode, s, want)
	}
	if mark := a.Header.Get("Gitlab-Unauthorized"); (mark == "true") != (code == 401) {
		t.Errorf("Gitlab-Unauthorized %q with %d", mark, code)
	}
}

// seen is what the agent has got.
type seen struct {
	mu     sync.Mutex
	header *grpctool.HttpRequest_Header
	body   string
}

// record is an agent that keeps the request and answers it.
func (s *seen) record(a *agenttest.Agent) error {
	h, body, err := a.Whole()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.header, s.body = h, string(body)
	s.mu.Unlock()
	return a.Answer(200, "from the cluster", "Content-Type", "text/plain")
}

func (s *seen) get(t *testing.T) *grpctool.HttpRequest_Header {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.header == nil {
		t.Fatal("the agent has got nothing")
	}
	return s.header
}

func (s *seen) headers(t *testing.T) http.Header {
	t.Helper()
	h, err := httpgrpc.FromKeyValues(s.get(t).GetRequest().GetHeader())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (s *seen) extra(t *testing.T) *kubernetesapi.HeaderExtra {
	t.Helper()
	any := s.get(t).GetExtra()
	if any == nil {
		return nil
	}
	extra := &kubernetesapi.HeaderExtra{}
	if err := proto.Unmarshal(any.GetValue(), extra); err != nil || any.GetTypeUrl() != "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra" {
		t.Fatal(any, err)
	}
	return extra
}

func offline() error {
	return fault.New(fault.DeadlineExceeded, fault.Agent, "Agent connection not found. Is agent up to date and connected?")
}

func refusedBy(kind fault.Kind, code int) error {
	return fault.New(kind, fault.GitLab, "HTTP status code: %d for path /api/v4/job/allowed_agents", code)
}

func (j *jobs) set(answer func(ctx context.Context, token string) (*gitlabapi.AllowedAgentsForJob, error)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.answer = answer
}

func fails(err error) func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) {
	return func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) { return nil, err }
}

func grants(as *agentcfg.CiAccessAsCF) func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) {
	return func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) { return allowed(as), nil }
}

// upgradable is an agent that accepts an upgrade and echoes.
func upgradable(a *agenttest.Agent) error {
	if _, err := a.Request(); err != nil {
		return err
	}
	if _, err := a.Body(true); err != nil {
		return err
	}
	if err := a.Respond(101, "Upgrade", "SPDY/3.1", "Connection", "Upgrade"); err != nil {
		return err
	}
	if err := a.Trailer(); err != nil {
		return err
	}
	for {
		member, data, err := a.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if member != agenttest.UpgradeData {
			return fmt.Errorf("member %d", member)
		}
		if err := a.Upgraded(string(data)); err != nil {
			return err
		}
	}
}
