package gitlabaccess_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	access "gitlab.com/agentk/agentk/api/gitlabaccess"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/gitlab"
	"gitlab.com/agentk/agentk/internal/gitlabaccess"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience   = time.Minute
	agentToken = "glagent-of-the-test"
)

type stream = grpc.BidiStreamingClient[grpctool.HttpRequest, grpctool.HttpResponse]

// serve runs the service and returns a client of it. The token of a call is its metadata "token".
func serve(t *testing.T, modules gitlabaccess.Modules, adjust func(*gitlabaccess.Config)) access.GitlabAccessClient {
	t.Helper()
	cfg := gitlabaccess.Config{Modules: modules, Log: zap.NewNop(), Token: func(ctx context.Context) string {
		return strings.Join(metadata.ValueFromIncomingContext(ctx, "token"), "")
	}}
	if adjust != nil {
		adjust(&cfg)
	}
	s, err := gitlabaccess.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec{}))
	access.RegisterGitlabAccessServer(server, s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	conn, err := grpc.NewClient("passthrough:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return access.NewGitlabAccessClient(conn)
}

// rails is a GitLab that runs handler, and the client of it.
func rails(t *testing.T, handler http.HandlerFunc) *gitlab.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := gitlab.New(gitlab.Config{Address: server.URL + "/gl", SecretFile: secret, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func kv(key string, values ...string) *prototool.KeyValues {
	out := &prototool.KeyValues{Key: []byte(key), Value: &prototool.Values{}}
	for _, v := range values {
		out.Value.Value = append(out.Value.Value, []byte(v))
	}
	return out
}

func extra(t *testing.T, module string) *anypb.Any {
	t.Helper()
	a, err := anypb.New(&access.HeaderExtra{ModuleName: module})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// open starts a call as agentk does: gzip, and no content_length.
func open(t *testing.T, client access.GitlabAccessClient) stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "token", agentToken), patience)
	t.Cleanup(cancel)
	s, err := client.MakeRequest(ctx, grpc.UseCompressor(gzip.Name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s stream, header *grpctool.HttpRequest_Header, chunks ...string) {
	t.Helper()
	messages := []*grpctool.HttpRequest{{Message: &grpctool.HttpRequest_Header_{Header: header}}}
	for _, c := range chunks {
		messages = append(messages, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Data_{Data: &grpctool.HttpRequest_Data{Data: []byte(c)}}})
	}
	messages = append(messages, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Trailer_{Trailer: &grpctool.HttpRequest_Trailer{}}})
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			return // the status is what Recv says
		}
	}
	_ = s.CloseSend()
}

type answer struct {
	Code   int32
	Header http.Header
	Body   string
}

func receive(s stream) (answer, error) {
	var a answer
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return a, err
		}
		switch m := m.Message.(type) {
		case *grpctool.HttpResponse_Header_:
			a.Code, a.Header = m.Header.Response.StatusCode, http.Header{}
			for _, h := range m.Header.Response.Header {
				for _, v := range h.GetValue().GetValue() {
					a.Header.Add(string(h.Key), string(v))
				}
			}
		case *grpctool.HttpResponse_Data_:
			a.Body += string(m.Data.Data)
		}
	}
}

func header(t *testing.T, method, path string, fields ...*prototool.KeyValues) *grpctool.HttpRequest_Header {
	return &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{Method: method, UrlPath: path, Header: fields}, Extra: extra(t, "starboard_vulnerability"),
	}
}

func TestMakeRequest(t *testing.T) {
	client := serve(t, rails(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Gitlab-Kas-Api-Request") == "" || r.Header.Get("Gitlab-Agent-Api-Request") != agentToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Answer", "kept")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s|%d|%s|%s|%s", r.Method, r.URL.RequestURI(), r.ContentLength, body, r.Header.Get("Authorization"), r.UserAgent())
	}), nil)
	request := header(t, http.MethodPut, "/scan result/ä", kv("Content-Type", "application/json"), kv("Authorization", "Bearer glpat-mine"),
		kv("User-Agent", "agentk"), kv("Gitlab-Kas-Api-Request", "forged"))
	request.Request.Query = []*prototool.KeyValues{kv("b", "2"), kv("a", "1", "&")}
	s := open(t, client)
	send(t, s, request, `{"uuids"`, `:[]}`)
	got, err := receive(s)
	if err != nil {
		t.Fatal(err)
	}
	want := "PUT /gl/api/v4/internal/kubernetes/modules/starboard_vulnerability/scan%20result/%C3%A4?a=1&a=%26&b=2|12|{\"uuids\":[]}||gitlab-kas/"
	if got.Code != http.StatusCreated || got.Header.Get("X-Answer") != "kept" || !strings.HasPrefix(got.Body, want) {
		t.Errorf("got %+v\nwant %s", got, want)
	}
}

func TestMakeRequest_RailsRefusalsAreAnswers(t *testing.T) {
	for _, code := range []int{401, 402, 403, 404, 406} {
		client := serve(t, rails(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }), nil)
		s := open(t, client)
		send(t, s, header(t, http.MethodGet, "/policies_configuration"))
		if got, err := receive(s); err != nil || got.Code != int32(code) {
			t.Errorf("%d: got %v %v", code, got, err)
		}
	}
}

func TestMakeRequest_Refusals(t *testing.T) {
	var asked atomic.Int64
	client := serve(t, rails(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) }),
		func(c *gitlabaccess.Config) { c.MaxBody = 10 })
	foreign, err := anypb.New(&kubernetesapi.HeaderExtra{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*grpctool.HttpRequest_Header)
		body   []string
		code   codes.Code
		text   string
	}{
		"upgrade": {func(h *grpctool.HttpRequest_Header) {
			h.Request.Header = []*prototool.KeyValues{kv("Upgrade", "websocket"), kv("Connection", "upgrade")}
		}, nil, codes.Unavailable, "gRPC -> HTTP: connection upgrade is not supported"},
		"no extra":      {func(h *grpctool.HttpRequest_Header) { h.Extra = nil }, nil, codes.Unavailable, "gRPC -> HTTP: the request header names no module: extra is missing"},
		"foreign extra": {func(h *grpctool.HttpRequest_Header) { h.Extra = foreign }, nil, codes.Unavailable, ""},
		"no module":     {func(h *grpctool.HttpRequest_Header) { h.Extra = extra(t, "") }, nil, codes.Unavailable, ""},
		"module that climbs": {
			func(h *grpctool.HttpRequest_Header) { h.Extra = extra(t, "..") }, nil, codes.InvalidArgument, "",
		},
		"module with a path": {
			func(h *grpctool.HttpRequest_Header) { h.Extra = extra(t, "a/../../agent_info") }, nil, codes.InvalidArgument, "",
		},
		"path that climbs": {
			func(h *grpctool.HttpRequest_Header) { h.Request.UrlPath = "/../../usage_metrics" }, nil, codes.InvalidArgument, "",
		},
		"path that climbs escaped": {
			func(h *grpctool.HttpRequest_Header) { h.Request.UrlPath = "/%2e%2e/%2e%2e/usage_metrics" }, nil, codes.InvalidArgument, "",
		},
		"path without slash": {func(h *grpctool.HttpRequest_Header) { h.Request.UrlPath = "x" }, nil, codes.InvalidArgument, ""},
		"header injection": {func(h *grpctool.HttpRequest_Header) {
			h.Request.Header = []*prototool.KeyValues{kv("X", "a\r\nGitlab-Agent-Api-Request: other")}
		}, nil, codes.InvalidArgument, ""},
		"body too big": {func(*grpctool.HttpRequest_Header) {}, []string{"01234", "567890"}, codes.ResourceExhausted, "the request body has more than 10 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			h := header(t, http.MethodPost, "/")
			tc.change(h)
			s := open(t, client)
			send(t, s, h, tc.body...)
			_, err := receive(s)
			if st := status.Convert(err); st.Code() != tc.code || tc.text != "" && st.Message() != tc.text {
				t.Errorf("got %v", err)
			}
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("GitLab was asked %d times", n)
	}
}

func TestMakeRequest_GitLabIsAway(t *testing.T) {
	server := httptest.NewServer(nil)
	address := server.URL
	server.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	gl, err := gitlab.New(gitlab.Config{Address: address, SecretFile: secret, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gl.Close)
	s := open(t, serve(t, gl, nil))
	send(t, s, header(t, http.MethodGet, "/"))
	if _, err := receive(s); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), agentToken) {
		t.Errorf("got %v", err)
	}
}

func TestMakeRequest_Standalone(t *testing.T) {
	s := open(t, serve(t, gitlabaccess.NoGitLab{}, nil))
	send(t, s, header(t, http.MethodGet, "/policies_configuration"))
	got, err := receive(s)
	want := answer{
		Code: http.StatusNotFound, Header: http.Header{"Content-Type": {"application/json"}},
		Body: `{"message":"404 Not Found: this kas stands beside no GitLab"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

// gate is GitLab as a barrier: requests wait in it until it opens.
type gate struct {
	inside, most atomic.Int64
	entered      chan struct{}
	open         chan struct{}
}

func (g *gate) Module(ctx context.Context, token, _ string, r *http.Request) (*http.Response, error) {
	if token != agentToken {
		return gitlabaccess.NoGitLab{}.Module(ctx, token, "", r)
	}
	n := g.inside.Add(1)
	defer g.inside.Add(-1)
	for {
		most := g.most.Load()
		if n <= most || g.most.CompareAndSwap(most, n) {
			break
		}
	}
	g.entered <- struct{}{}
	select {
	case <-g.open:
		return gitlabaccess.NoGitLab{}.Module(ctx, token, "", r)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An agent that asks for much waits for itself only.
func TestMakeRequest_CallsOfOneTokenAreBounded(t *testing.T) {
	const calls, bound = 25, 10
	g := &gate{entered: make(chan struct{}, calls), open: make(chan struct{})}
	client := serve(t, g, nil)
	results := make(chan error, calls)
	for range calls {
		s := open(t, client)
		send(t, s, header(t, http.MethodGet, "/"))
		go func() { _, err := receive(s); results <- err }()
	}
	for range bound {
		<-g.entered
	}
	other, err := client.MakeRequest(metadata.AppendToOutgoingContext(t.Context(), "token", "another"))
	if err != nil {
		t.Fatal(err)
	}
	send(t, other, header(t, http.MethodGet, "/"))
	if got, err := receive(other); err != nil || got.Code != http.StatusNotFound {
		t.Errorf("another agent: %v %v", got, err)
	}
	close(g.open)
	for range calls {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if most := g.most.Load(); most != bound {
		t.Errorf("%d calls at a time", most)
	}
}

func TestMakeRequest_TakesNoLongerThanItMay(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 1), open: make(chan struct{})}
	client := serve(t, g, func(c *gitlabaccess.Config) { c.CallTimeout = 20 * time.Millisecond })
	s := open(t, client)
	send(t, s, header(t, http.MethodGet, "/"))
	if _, err := receive(s); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestMakeRequest_AgentGone(t *testing.T) {
	g := &gate{entered: make(chan struct{}, 1), open: make(chan struct{})}
	client := serve(t, g, nil)
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "token", agentToken))
	s, err := client.MakeRequest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, header(t, http.MethodGet, "/"))
	<-g.entered
	cancel()
	deadline := time.Now().Add(patience)
	for g.inside.Load() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the request goes on without its agent")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNew_Refusals(t *testing.T) {
	token := func(context.Context) string { return "" }
	for name, cfg := range map[string]gitlabaccess.Config{
		"no modules": {Token: token, Log: zap.NewNop()},
		"no token":   {Modules: gitlabaccess.NoGitLab{}, Log: zap.NewNop()},
		"no log":     {Modules: gitlabaccess.NoGitLab{}, Token: token},
	} {
		if _, err := gitlabaccess.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
