package faults

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/api/reversetunnel/info"
	"gitlab.com/agentk/agentk/test/line"
)

// jwtStart is how every ServiceAccount token starts: those that agentk takes by itself are not known to the test.
const jwtStart = "eyJhbGci"

const debugLevels = "observability: {logging: {level: debug, grpc_level: debug}}\n"

// canary collects what must not show secrets, and the secrets.
type canary struct {
	secrets map[string]string // by what they are
	pages   map[string]string // by where they come from
}

// secret makes one more secret.
func (c *canary) secret(what string) string {
	value := rand.Text()
	c.secrets[what] = value
	return value
}

func (c *canary) check(t *testing.T) {
	t.Helper()
	for what, secret := range c.secrets {
		for _, form := range append(base64Forms(secret), secret) {
			for where, page := range c.pages {
				if i := strings.Index(page, form); i >= 0 {
					t.Errorf("%s is in %s: ...%s...", what, where, page[max(0, i-200):min(len(page), i+len(form)+100)])
				}
			}
		}
	}
}

// base64Forms are the parts of a text's Base64 that do not depend on what stands before and after it.
func base64Forms(secret string) []string {
	var forms []string
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
		// The first and last characters may hold bits of the neighbours.
		form := encoded[(shift*8+5)/6 : len(encoded)-1]
		forms = append(forms, form, strings.NewReplacer("+", "-", "/", "_").Replace(form))
	}
	return forms
}

func TestCanary_NoSecretInLogsErrorsAndMetrics(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) {
		c.ExtraKasYAML = debugLevels
		c.Agents[0].Name, c.Agents[0].Power, c.Agents[0].Config = "canary", line.TokenOnly, letIn("{ci_job: {}}")+debugLevels
	})
	run := &canary{secrets: l.Secrets(), pages: map[string]string{}}
	provokeDebugLines(t, l)
	goodRequests(t, l)
	badRequests(t, l, run)
	plainToTLS(t, l, run)
	badAgent(t, l, run)
	page, err := l.KasMetrics(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	run.pages["metrics of kas"] = page
	if page, err = l.AgentMetrics(soon(t), "canary"); err != nil {
		t.Fatal(err)
	}
	run.pages["metrics of agentk"] = page
	for name, log := range l.Logs() {
		if !strings.Contains(log, `"level":"debug"`) {
			t.Errorf("the log of %s has no line at debug level", name)
		}
		run.pages["log of "+name] = log
	}
	run.secrets["some JWT"] = jwtStart
	run.check(t)
}

// provokeDebugLines waits until the agent has its log level from its configuration, and breaks what is then logged about at length.
func provokeDebugLines(t *testing.T, l *line.Line) {
	t.Helper()
	log := func() string { return l.AgentLog("canary") }
	if _, err := line.WaitLog(soon(t), log, "Configuration applied"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.KillKas(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := l.StartKas(soon(t)); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"level":"debug"`, `"mod_name":"grpc"`} {
		if _, err := line.WaitLog(soon(t), log, text); err != nil {
			t.Fatal(err)
		}
	}
}

// plainToTLS shows a credential to the TLS listener in clear.
func plainToTLS(t *testing.T, l *line.Line, run *canary) {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(soon(t), "tcp", l.ProxyAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	secret := run.secret("credential in clear")
	if _, err := io.WriteString(conn, "GET /"+secret+" HTTP/1.1\r\nAuthorization: Bearer "+secret+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	run.pages["answer to plain HTTP"] = string(body)
	if _, err := line.WaitLog(soon(t), l.KasLog, "TLS handshake error"); err != nil {
		t.Fatal(err)
	}
}

func goodRequests(t *testing.T, l *line.Line) {
	t.Helper()
	for path, code := range map[string]int{
		"/version": http.StatusOK, "/api/v1/namespaces/default/configmaps": http.StatusOK,
		"/api/v1/namespaces/default/secrets": http.StatusForbidden, "/api/v1/nothing": http.StatusNotFound,
	} {
		if a := mustDo(t, l, "canary", request{path: path}); a.code != code && a.code != http.StatusForbidden {
			t.Errorf("%s: HTTP status %d: %s", path, a.code, a.body)
		}
	}
	c := dial(t, l, "canary")
	c.ask(t, "GET", "/api/v1/namespaces/default/pods/x/exec", upgradeLines...)
	c.response(t, "GET")
	watch, leave := context.WithCancel(soon(t))
	defer leave()
	response, err := send(watch, l, "canary", request{path: configMaps})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

// badRequests show secrets in all the wrong places.
func badRequests(t *testing.T, l *line.Line, run *canary) {
	t.Helper()
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	for what, q := range map[string]request{
		"wrong job token":         {path: "/version", header: authorization("Bearer ci:7:" + run.secret("wrong job token"))},
		"personal access token":   {path: "/version", header: authorization("Bearer pat:7:" + run.secret("personal access token"))},
		"token without a kind":    {path: "/version", header: authorization("Bearer " + run.secret("token without a kind"))},
		"token of unknown kind":   {path: "/version", header: authorization("Bearer zz:7:" + run.secret("token of unknown kind"))},
		"token without an agent":  {path: "/version", header: authorization("Bearer ci:" + run.secret("token without an agent"))},
		"basic credentials":       {path: "/version", header: authorization("Basic " + run.secret("basic credentials"))},
		"two tokens":              {path: "/version", header: authorization("Bearer ci:7:"+run.secret("first"), "Bearer ci:7:"+run.secret("second"))},
		"token of another agent":  {path: "/version", header: authorization("Bearer ci:8:" + run.secret("token for another agent"))},
		"session":                 {path: "/version", header: noCredential(header("Cookie", "_gitlab_kas="+run.secret("session"), "Gitlab-Agent-Id", "7", "X-Csrf-Token", run.secret("CSRF token")))},
		"session without agent":   {path: "/version", header: noCredential(header("Cookie", "_gitlab_kas="+run.secret("session without agent")))},
		"CSRF token in the query": {path: "/version?gitlab-agent-id=7&gitlab-csrf-token=" + run.secret("CSRF token in the query")},
		"malformed query":         {path: "/version?gitlab-csrf-token=" + run.secret("CSRF token in a malformed query") + "%zz"},
		"wrong prefix":            {path: "/../" + "other?gitlab-csrf-token=" + run.secret("CSRF token under another prefix")},
		"nested impersonation":    {path: "/version", header: header("Impersonate-User", "x", "X-Remote-User", run.secret("claim"))},
		"preflight":               {method: http.MethodOptions, path: "/version", header: authorization("Bearer ci:7:" + run.secret("token of a preflight"))},
		"foreign origin":          {path: "/version", header: header("Origin", "https://evil.test", "Authorization", "Bearer ci:7:"+run.secret("token from afar"))},
		"query towards cluster":   {path: "/api/v1/pods?token=" + run.secret("query towards the cluster")},
	} {
		a := mustDo(t, l, "canary", q)
		run.pages["answer to "+what] = a.body
	}
	// Here the client reads its own words again, as it does from a stock kas; nobody else may.
	swapped := run.secret("token in the place of the agent id")
	mustDo(t, l, "canary", request{path: "/version", header: authorization("Bearer ci:" + swapped + ":7")})
}

// noCredential keeps the job's own Authorization header away: the empty list counts as set and sends none.
func noCredential(h http.Header) http.Header {
	h["Authorization"] = nil
	return h
}

// badAgent has the agent come with a token that kas does not know.
func badAgent(t *testing.T, l *line.Line, run *canary) {
	t.Helper()
	good := run.secrets["token of agent canary"]
	if _, err := l.StopAgent(soon(t), "canary"); err != nil {
		t.Fatal(err)
	}
	if err := l.SetAgent("canary", func(a *line.Agent) { a.Token = run.secret("wrong agent token") }); err != nil {
		t.Fatal(err)
	}
	if err := l.SpawnAgent("canary"); err != nil {
		t.Fatal(err)
	}
	if _, err := line.WaitLog(soon(t), func() string { return l.AgentLog("canary") }, "unauthenticated"); err != nil {
		t.Error(err)
	}
	if _, err := l.StopAgent(soon(t), "canary"); err != nil {
		t.Fatal(err)
	}
	if err := l.SetAgent("canary", func(a *line.Agent) { a.Token = good }); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(soon(t), "canary"); err != nil {
		t.Fatal(err)
	}
}

// What an agent gets is what its cluster gets: no credential of kas or of its clients may be among it.
func TestCanary_NothingOfTheCredentialsTravelsToTheAgent(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Scheme, c.Agents[0].Manual = line.GRPC, true })
	run := &canary{secrets: l.Secrets(), pages: map[string]string{}}
	frames := make(chan []string, 1)
	errs := make(chan error, 1)
	token := run.secrets["token of agent demo"]
	go func() {
		got, err := agentDouble(soon(t), l, token)
		errs <- err
		frames <- got
	}()
	bearer, err := l.Bearer(jobID, "demo")
	if err != nil {
		t.Fatal(err)
	}
	a := mustDo(t, l, "demo", request{
		method: http.MethodPost, path: "/api/v1/x?gitlab-csrf-token=" + run.secret("CSRF token") + "&kept=yes", body: "payload",
		header: http.Header{
			"Authorization": {"Bearer " + bearer}, "Cookie": {"_gitlab_kas=" + run.secret("session")},
			"X-Csrf-Token": {run.secret("CSRF token in a header")}, "Proxy-Authorization": {"Basic " + run.secret("of a proxy")},
			"Grpc-Metadata-Authorization": {"harmless"}, "Kas-Hop-Routing-Agent-Id": {"8"},
		},
	})
	if err := await(t, "the double gets the request", errs); err != nil {
		t.Fatal(err)
	}
	if message := a.refusal(t, http.StatusBadGateway, ""); !strings.Contains(message, "the double serves nothing") {
		t.Errorf("message %q", message)
	}
	got := strings.Join(await(t, "what the double got", frames), "\n")
	for _, want := range []string{"MakeRequest", "/api/v1/x", "kept", "gitlab:ci_job:9001"} {
		if !strings.Contains(got, want) {
			t.Errorf("the agent did not get %q: this test sees nothing\n%s", want, got)
		}
	}
	for _, never := range []string{`"authorization"`, `"Authorization"`, "Bearer", "kas-hop", "Kas-Hop", "_gitlab_kas"} {
		if strings.Contains(got, never) {
			t.Errorf("the agent got %s:\n%s", never, got)
		}
	}
	run.pages["what the agent gets"] = got
	run.check(t)
}

// agentDouble parks one stream, and returns what it is sent for one request, as text, after refusing it.
func agentDouble(ctx context.Context, l *line.Line, token string) ([]string, error) {
	conn, err := grpc.NewClient(l.AgentAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	stream, err := reversetunnel.NewReverseTunnelClient(conn).Connect(ctx, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	descriptor := &reversetunnel.Descriptor{AgentDescriptor: &info.AgentDescriptor{Services: []*info.Service{{
		Name: "gitlab.agent.kubernetes_api.rpc.KubernetesApi", Methods: []*info.Method{{Name: "MakeRequest"}},
	}}}}
	if err := stream.Send(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Descriptor_{Descriptor_: descriptor}}); err != nil {
		return nil, err
	}
	var got []string
	for {
		frame, err := stream.Recv()
		if err != nil {
			return got, err
		}
		// Bytes are shown too as they are: a secret inside of them must not hide behind escapes.
		got = append(got, prototext.Format(frame), string(frame.GetMessage().GetData()))
		if frame.GetCloseSend() != nil {
			break
		}
	}
	refusal := &reversetunnel.Error{Status: status.New(codes.Unavailable, "the double serves nothing").Proto()}
	if err := stream.Send(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Error{Error: refusal}}); err != nil {
		return got, err
	}
	return got, stream.CloseSend()
}

func TestBase64Forms_FindASecretWhereverItStands(t *testing.T) {
	t.Parallel()
	secret := rand.Text()
	for before := range 7 {
		for after := range 4 {
			text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("b", before) + secret + strings.Repeat("a", after)))
			if !slices.ContainsFunc(base64Forms(secret), func(form string) bool { return strings.Contains(text, form) }) {
				t.Errorf("not found with %d bytes before and %d after", before, after)
			}
		}
	}
}
