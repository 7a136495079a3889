package stock

import (
	"bytes"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// answered is an HTTP response that came up a tunnel.
type answered struct {
	*grpctool.HttpResponse_Header
	body []byte
}

// header is the values of a header.
func (a answered) header(name string) []string {
	var values []string
	for _, kv := range a.Response.Header {
		if string(kv.Key) == name {
			for _, v := range kv.Value.Value {
				values = append(values, string(v))
			}
		}
	}
	return values
}

// answered waits for an answer up to the end of its body, message by message.
func (c *rpc) answered(t *testing.T) answered {
	t.Helper()
	recorded := load(t, "agent-16.6")
	if got, want := c.message(t), recorded.message(t, "answer-header"); !bytes.Equal(got, want) {
		t.Errorf("first: got %x, want %x", got, want)
	}
	var a answered
	for {
		raw := c.message(t)
		if bytes.Equal(raw, recorded.message(t, "answer-http-trailer")) {
			return a
		}
		m, frame := &reversetunnel.ConnectRequest{}, &grpctool.HttpResponse{}
		unmarshal(t, raw, m)
		unmarshal(t, m.GetMessage().GetData(), frame)
		switch {
		case a.HttpResponse_Header == nil && frame.GetHeader() != nil:
			a.HttpResponse_Header = frame.GetHeader()
			for _, kv := range frame.GetHeader().Response.Header {
				if name := string(kv.Key); textproto.CanonicalMIMEHeaderKey(name) != name {
					t.Errorf("header name %q", name)
				}
			}
		case a.HttpResponse_Header != nil && frame.GetData() != nil:
			a.body = append(a.body, frame.GetData().Data...)
		default:
			t.Fatalf("out of order: %v", m)
		}
	}
}

// completed waits for the end of a call without an error: the trailer and the half-close, nothing between.
func (c *rpc) completed(t *testing.T) {
	t.Helper()
	if got, want := c.message(t), load(t, "agent-16.6").message(t, "answer-trailer"); !bytes.Equal(got, want) {
		t.Errorf("last: got %x, want %x", got, want)
	}
	c.ending(t)
}

// TestKas16_6_Session is the recorded session of a real kas, with an agent of ours.
func TestKas16_6_Session(t *testing.T) {
	for _, scheme := range []string{"ws", "grpc"} {
		t.Run(scheme, func(t *testing.T) {
			k := listenAs(t, "kas-16.6", scheme)
			a := startAgent(t, k.address)
			l := k.connection(t)
			pod := k.registration(t)
			if pod.PodId <= 0 || pod.AgentMeta.PodName != "agentk-lab-1" || pod.AgentMeta.PodNamespace != "gitlab-agent" {
				t.Errorf("registration: %v", pod)
			}
			configuration := k.configure(t, "configuration")
			eventually(t, "the configuration", func() bool { return strings.Contains(a.said(), "Configuration applied") })
			tunnels := []*rpc{k.tunnel(t), k.tunnel(t)}
			l.settle(t)
			for _, c := range append(tunnels, configuration) {
				c.silent(t)
			}
			checkServed(t, a, tunnels[0])
			again := k.tunnel(t)
			checkPings(t, l)
			checkStop(t, k, a, append(tunnels[1:], again, configuration))
		})
	}
}

// checkServed sends the recorded request of a job.
func checkServed(t *testing.T, a *ourAgent, c *rpc) {
	t.Helper()
	c.ask(t, "request-info", "http-header", "http-trailer", "close-send")
	got := c.answered(t)
	if got.Response.StatusCode != 200 || got.Response.Status != "200 OK" || string(got.body) != `{"major":"1","minor":"36"}` {
		t.Errorf("answer: %v %q", got.Response, got.body)
	}
	via := strings.Join(got.header("Via"), ", ")
	if !strings.Contains(via, " gitlab-agent/") || !slices.Equal(got.header("Audit-Id"), []string{"a1"}) {
		t.Errorf("headers: %v", got.Response.Header)
	}
	c.completed(t)
	c.link.settle(t)
	c.silent(t) // however long kas takes
	c.finish(t)

	r := a.cluster.request(t)
	if r.Method != "GET" || r.URL.String() != "/version" || r.UserAgent() != "curl/7.88.1" {
		t.Errorf("the cluster gets %s %s of %s", r.Method, r.URL, r.UserAgent())
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) != 0 || len(r.body) != 0 {
		t.Errorf("the cluster gets a body: %d, %v", r.ContentLength, r.TransferEncoding)
	}
	checkIdentity(t, r)
}

// checkIdentity: the request is the agent's own, for the job; what kas calls itself is nobody's there.
func checkIdentity(t *testing.T, r seen) {
	t.Helper()
	want := http.Header{
		"Authorization":    {"Bearer " + clusterToken},
		"Impersonate-User": {"gitlab:ci_job:1001"},
		"Impersonate-Group": {
			"gitlab:ci_job", "gitlab:group:25", "gitlab:group_env_tier:25:production", "gitlab:group:23", "gitlab:group_env_tier:23:production",
			"gitlab:project:150", "gitlab:project_env:150:prod", "gitlab:project_env_tier:150:production",
		},
		"Impersonate-Extra-Agent.gitlab.com%2fid":        {"1"},
		"Impersonate-Extra-Agent.gitlab.com%2fci_job_id": {"1001"},
	}
	for name, values := range want {
		if got := r.Header[name]; !slices.Equal(got, values) {
			t.Errorf("%s: %q, want %q", name, got, values)
		}
	}
	extra := 0
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Impersonate-Extra-") {
			extra++
		}
		if strings.HasPrefix(name, "Grpc-") || strings.Contains(strings.Join(values, " "), "eyJ") {
			t.Errorf("%s: %q", name, values)
		}
	}
	if extra != 8 {
		t.Errorf("%d extra keys, want 8", extra)
	}
}

// checkPings: both kinds are answered.
func checkPings(t *testing.T, l *link) {
	t.Helper()
	l.write(func() error { return l.framer.WritePing(false, [8]byte{}) })
	select {
	case got := <-l.pings:
		if got != [8]byte{} {
			t.Errorf("ping: %x", got)
		}
	case <-time.After(patience):
		t.Error("no answer to the keepalive ping")
	}
	if l.ws == nil {
		return
	}
	if err := l.ws.frame(opPing, []byte("alive?")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-l.ws.pongs:
		if got != "alive?" {
			t.Errorf("pong: %q", got)
		}
	case <-time.After(patience):
		t.Error("no answer to the ping of the WebSocket")
	}
}

// checkStop stops the agent; this kas does not know Unregister.
func checkStop(t *testing.T, k *stockKas, a *ourAgent, open []*rpc) {
	t.Helper()
	a.stop()
	for _, c := range open {
		c.cancelled(t)
	}
	l := k.next(t, unregister).link
	if err := <-a.ended; err != nil {
		t.Error(err)
	}
	if strings.Contains(a.said(), "not unregistered") {
		t.Error("the agent complains about an old kas")
	}
	if l.ws == nil {
		return
	}
	select {
	case code := <-l.ws.closed:
		if code != 1000 {
			t.Errorf("the agent closes with %d", code)
		}
	case <-time.After(patience):
		t.Error("the agent does not close the WebSocket")
	}
}
