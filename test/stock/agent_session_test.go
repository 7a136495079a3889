package stock

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// TestAgent16_6_Session is the recorded session of a real agent, from the handshake to its end.
func TestAgent16_6_Session(t *testing.T) {
	for _, scheme := range []string{"ws", "grpc"} {
		t.Run(scheme, func(t *testing.T) {
			k := startKas(t, "7200s")
			a := dial(t, k, "agent-16.6", scheme)
			parked := a.park(t, 2)
			configuration := a.call(t, getConfiguration)
			configuration.last(a.says.message(t, "configuration"))
			if got := a.unary(t, register, "register"); len(got) != 0 {
				t.Errorf("Register answers %x", got)
			}
			checkConfiguration(t, configuration)
			checkModule(t, a)
			a.settle(t)
			for _, s := range append(parked, configuration) {
				s.silent(t)
			}
			if len(a.settings) == 0 {
				t.Error("no SETTINGS")
			}
			for _, s := range a.settings {
				if s.ID == 3 { // MAX_CONCURRENT_STREAMS
					t.Errorf("SETTINGS: %v", s)
				}
			}
			used := checkProxied(t, k, a, parked)
			eventually(t, "registration", func() bool { return k.registered(t, "v16.6.0", 1) })
			stop(t, a, append(parked, configuration), used)
		})
	}
}

// checkConfiguration waits for the configuration of agent 1.
func checkConfiguration(t *testing.T, s *stream) {
	t.Helper()
	checkAnswer(t, s.answer(t))
	got := &agentconfiguration.ConfigurationResponse{}
	unmarshal(t, s.message(t), got)
	c := got.Configuration
	if len(got.CommitId) != 40 || c.AgentId != 1 || c.ProjectId != 10 || c.ProjectPath != "group/project" || c.CiAccess.Projects[0].DefaultNamespace != "default" {
		t.Errorf("commit %q, configuration %v", got.CommitId, c)
	}
}

// checkModule lets a module ask for something; this kas has no GitLab.
func checkModule(t *testing.T, a *agent) {
	t.Helper()
	s := a.call(t, moduleRequest)
	s.send(a.says.message(t, "module-header"), a.says.message(t, "module-trailer"))
	s.halfClose()
	checkAnswer(t, s.answer(t))
	var members []string
	status := int32(0)
	for len(members) == 0 || members[len(members)-1] != "trailer" {
		m := &grpctool.HttpResponse{}
		unmarshal(t, s.message(t), m)
		member := m.ProtoReflect().WhichOneof(m.ProtoReflect().Descriptor().Oneofs().Get(0))
		members = append(members, string(member.Name()))
		if h := m.GetHeader(); h != nil {
			status = h.Response.StatusCode
		}
	}
	if got := strings.Join(members, " "); got != "header data trailer" || status != http.StatusNotFound {
		t.Errorf("module: %s with status %d", got, status)
	}
	checkStatus(t, s, "0")
}

// checkProxied serves one request of a job on any of the tunnels, which it returns.
func checkProxied(t *testing.T, k *ourKas, a *agent, parked []*stream) *stream {
	t.Helper()
	answered := k.ask(t, "/version")
	s := first(t, parked)
	got := a.request(t, s)
	checkHeader(t, got.header)
	more := a.park(t, 10) // as a stock agent does when few are left
	a.respond(t, s)
	o := <-answered
	if o.err != nil || o.status != http.StatusOK || !strings.Contains(o.body, `"gitVersion": "v1.36.3"`) || o.header.Get("Audit-Id") == "" {
		t.Fatalf("the job got %+v", o)
	}
	if via := strings.Join(o.header.Values("Via"), ", "); !strings.HasPrefix(via, "2.0 gitlab-agent/v16.6.0/8daa08cc, gRPC/1.0 gitlab-kas/") {
		t.Errorf("Via: %s", via)
	}
	checkStatus(t, s, "0")
	a.settle(t)
	for _, m := range more {
		m.silent(t)
		m.reset(cancel)
	}
	return s
}

// checkHeader compares with the request that the real server made of the same job's request.
func checkHeader(t *testing.T, got *grpctool.HttpRequest_Header) {
	t.Helper()
	recorded := &reversetunnel.ConnectResponse{}
	unmarshal(t, load(t, "kas-16.6").message(t, "http-header"), recorded)
	frame := &grpctool.HttpRequest{}
	unmarshal(t, recorded.GetMessage().GetData(), frame)
	want := frame.GetHeader()
	if got.Request.Method != want.Request.Method || got.Request.UrlPath != want.Request.UrlPath || len(got.Request.Query) != 0 {
		t.Errorf("request: %v", got.Request)
	}
	if got.Extra.GetTypeUrl() != want.Extra.TypeUrl {
		t.Errorf("extra: %s", got.Extra.GetTypeUrl())
	}
	ours, theirs := &kubernetesapi.HeaderExtra{}, &kubernetesapi.HeaderExtra{}
	unmarshal(t, got.Extra.GetValue(), ours)
	unmarshal(t, want.Extra.Value, theirs)
	if diff := cmp.Diff(theirs, ours, protocmp.Transform()); diff != "" {
		t.Errorf("who the request becomes (-recorded +ours):\n%s", diff)
	}
	names := map[string]string{}
	for _, kv := range got.Request.Header {
		names[string(kv.Key)] = string(kv.Value.Value[0])
	}
	if names["User-Agent"] == "" || !strings.HasPrefix(names["Via"], "gRPC/1.0 gitlab-kas/") || names["Authorization"] != "" {
		t.Errorf("headers: %v", names)
	}
}

// stop is how an agent ends: its streams first, then the WebSocket.
func stop(t *testing.T, a *agent, streams []*stream, used *stream) {
	t.Helper()
	a.together(func() {
		for _, s := range streams {
			if s != used {
				s.reset(cancel)
			}
		}
	})
	if a.ws == nil {
		return
	}
	if err := a.ws.end(1000); err != nil {
		t.Fatal(err)
	}
	select {
	case code := <-a.ws.closed:
		if code != 1000 {
			t.Errorf("kas closes with %d", code)
		}
	case <-time.After(patience):
		t.Error("kas does not answer a close")
	}
}
