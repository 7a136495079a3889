package faults

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// upgradeLines ask for another protocol, as a WebSocket client does.
var upgradeLines = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c3R1dHRlcmVyIGhhcyBzb21l",
}

// TestUpgrade goes through the upgrades that go wrong, one after the other on one line: after each, nothing of it may be left.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	d := useDouble(t)
	nowhere, err := d.kubeconfigFor("https://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	l := demoLine(t, func(c *line.Config) {
		c.Agents[0].Args = d.args()
		c.Agents = append(c.Agents, line.Agent{
			ID: 9, Name: "refused", Project: "acme/refused", Config: letIn("{ci_job: {}}"), Args: []string{"--kubeconfig", nowhere},
		})
	})
	for name, check := range map[string]func(*testing.T, *double, *line.Line){
		"ClusterRefuses_ClientHasTheAnswerAndItsConnection":   upgradeRefused,
		"ClusterUnreachable_ClientHasAStatusAndItsConnection": upgradeUnreachable,
		"ClusterClosesBeforeItsAnswer_ClientHasAStatus":       upgradeUnanswered,
		"ClusterDiesBeforeItsAnswer_ClientHasAStatus":         upgradeResetUnanswered,
		"ClientCloses_ClusterSeesTheEnd":                      upgradeClientCloses,
		"ClientDies_ClusterSeesTheEnd":                        upgradeClientDies,
		"ClusterCloses_ClientHasAllBytesAndTheEnd":            upgradeClusterCloses,
		"ClusterDies_ClientSeesTheEnd":                        upgradeClusterDies,
		"AgentDies_BothSeeTheEnd":                             upgradeAgentDies,
	} {
		t.Run(name, func(t *testing.T) {
			check(t, d, l)
			expectIdle(t, l, "demo")
		})
	}
}

// upgradeRefused: the answer, with its body, is the client's, who goes on using the connection. What the client sent meanwhile is its
// next request and nothing for the cluster.
func upgradeRefused(t *testing.T, d *double, l *line.Line) {
	seen := make(chan *http.Request, 1)
	path := d.handle(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "no such container")
	})
	c := dial(t, l, "demo")
	c.ask(t, "GET", path+"/exec", upgradeLines...)
	c.ask(t, "GET", "/version", "X-Next: one")
	response := c.response(t, "GET")
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusBadRequest || string(body) != "no such container" {
		t.Fatalf("answer: %d %q, %v; want the cluster's refusal", response.StatusCode, body, err)
	}
	expectVersion(t, c)
	if upstream := received(await(t, "the request reaches the cluster", seen)); strings.Contains(upstream, "X-Next") || strings.Contains(upstream, "/version") {
		t.Errorf("the client's next request went to the cluster as bytes of the refused upgrade:\n%s", upstream)
	}
}

// expectVersion reads the answer of a request that went well.
func expectVersion(t *testing.T, c *raw) {
	t.Helper()
	response := c.response(t, "GET")
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), "gitVersion") {
		t.Fatalf("next answer on the connection: %d %q, %v", response.StatusCode, body, err)
	}
}

// refusalOn reads an answer of kas itself.
func refusalOn(t *testing.T, c *raw) string {
	t.Helper()
	response := c.response(t, "GET")
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{code: response.StatusCode, header: response.Header, body: string(body)}.refusal(t, http.StatusBadGateway, "")
}

func upgradeUnreachable(t *testing.T, d *double, l *line.Line) {
	c := dial(t, l, "refused")
	c.ask(t, "GET", "/api/v1/namespaces/default/pods/x/exec", upgradeLines...)
	message := refusalOn(t, c)
	if !strings.Contains(message, "gRPC -> HTTP: Kubernetes API server: ") || !strings.Contains(message, "connection refused") {
		t.Errorf("message %q does not say that the API server refuses connections", message)
	}
	// The same connection serves the next request.
	token, err := l.Bearer(jobID, "demo")
	if err != nil {
		t.Fatal(err)
	}
	c.token = token
	c.ask(t, "GET", "/version")
	expectVersion(t, c)
	expectIdle(t, l, "refused")
}

func upgradeUnanswered(t *testing.T, d *double, l *line.Line) {
	path := d.handle(t, func(w http.ResponseWriter, _ *http.Request) {
		if conn, err := take(w); err == nil {
			conn.Close()
		}
	})
	c := dial(t, l, "demo")
	c.ask(t, "GET", path, upgradeLines...)
	if message := refusalOn(t, c); !strings.Contains(message, "Kubernetes API server") {
		t.Errorf("message %q does not name the API server", message)
	}
}

func upgradeResetUnanswered(t *testing.T, d *double, l *line.Line) {
	path := d.handle(t, func(w http.ResponseWriter, _ *http.Request) {
		if conn, err := take(w); err == nil {
			_ = conn.reset()
		}
	})
	c := dial(t, l, "demo")
	c.ask(t, "GET", path, upgradeLines...)
	if message := refusalOn(t, c); !strings.Contains(message, "Kubernetes API server") {
		t.Errorf("message %q does not name the API server", message)
	}
}

// session is an upgraded connection through the line.
type session struct {
	client  *raw
	cluster *tap
}

// openSession makes an upgrade that the cluster accepts, and carries bytes both ways.
func openSession(t *testing.T, d *double, l *line.Line, lines ...string) session {
	t.Helper()
	taken := make(chan *tap, 1)
	path := d.handle(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := take(w)
		if err != nil {
			close(taken)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
		taken <- conn
	})
	if lines == nil {
		lines = upgradeLines
	}
	c := dial(t, l, "demo")
	c.ask(t, "POST", path+"/exec", append(lines, "Content-Length: 0")...)
	response := c.response(t, "POST")
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("HTTP status %d, want 101", response.StatusCode)
	}
	if got := response.Header.Get("Connection"); !strings.EqualFold(got, "upgrade") {
		t.Errorf("Connection of the answer is %q", got)
	}
	s := session{client: c, cluster: await(t, "the cluster takes the connection", taken)}
	if s.cluster == nil {
		t.Fatal("the double's connection cannot be taken")
	}
	t.Cleanup(func() { s.cluster.Close() })
	s.both(t)
	return s
}

// both carries some bytes each way.
func (s session) both(t *testing.T) {
	t.Helper()
	s.client.write(t, "ping")
	s.clusterExpects(t, "ping")
	if _, err := io.WriteString(s.cluster, "pong"); err != nil {
		t.Fatal(err)
	}
	s.client.expect(t, "pong")
}

func (s session) clusterExpects(t *testing.T, text string) {
	t.Helper()
	got := make([]byte, len(text))
	done := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(s.cluster, got)
		done <- err
	}()
	if err := await(t, "bytes reach the cluster", done); err != nil || string(got) != text {
		t.Fatalf("the cluster reads %q, %v; want %q", got, err, text)
	}
}

// clusterSeesEnd waits until the cluster's side ends, in whatever way.
func (s session) clusterSeesEnd(t *testing.T) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, s.cluster)
		done <- err
	}()
	await(t, "the cluster sees the end of the connection", done)
}

func upgradeClientCloses(t *testing.T, d *double, l *line.Line) {
	s := openSession(t, d, l)
	s.client.Close()
	s.clusterSeesEnd(t)
}

func upgradeClientDies(t *testing.T, d *double, l *line.Line) {
	s := openSession(t, d, l)
	if err := reset(s.client.Conn); err != nil {
		t.Fatal(err)
	}
	s.clusterSeesEnd(t)
}

func upgradeClusterCloses(t *testing.T, d *double, l *line.Line) {
	s := openSession(t, d, l)
	if _, err := io.WriteString(s.cluster, "last words"); err != nil {
		t.Fatal(err)
	}
	s.cluster.Close()
	s.client.expect(t, "last words")
	s.client.expectEnd(t)
}

func upgradeClusterDies(t *testing.T, d *double, l *line.Line) {
	s := openSession(t, d, l)
	if err := s.cluster.reset(); err != nil {
		t.Fatal(err)
	}
	s.client.expectEnd(t)
}

func upgradeAgentDies(t *testing.T, d *double, l *line.Line) {
	s := openSession(t, d, l)
	if _, err := l.KillAgent(soon(t), "demo"); err != nil {
		t.Fatal(err)
	}
	s.client.expectEnd(t)
	s.clusterSeesEnd(t)
	if err := l.StartAgent(soon(t), "demo"); err != nil {
		t.Fatal(err)
	}
}
