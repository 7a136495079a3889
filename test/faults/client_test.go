package faults

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/test/line"
)

// messagePrefix starts every message of kas itself.
const messagePrefix = "GitLab Agent Server: "

// answer is a response with its whole body.
type answer struct {
	code   int
	header http.Header
	body   string
}

// refusal decodes an answer of kas itself and returns its message without the prefix.
func (a answer) refusal(t *testing.T, code int, reason metav1.StatusReason) string {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("HTTP status %d, body %q: %v", a.code, a.body, err)
	}
	if a.code != code || s.Code != int32(code) || s.Reason != reason || s.Kind != "Status" || s.Status != metav1.StatusFailure {
		t.Errorf("HTTP status %d with %s, want a Status of code %d and reason %q", a.code, a.body, code, reason)
	}
	if marked := a.header.Get("Gitlab-Unauthorized") == "true"; marked != (code == http.StatusUnauthorized) {
		t.Errorf("Gitlab-Unauthorized is %q on a %d of kas", a.header.Get("Gitlab-Unauthorized"), code)
	}
	message, ok := strings.CutPrefix(s.Message, messagePrefix)
	if !ok {
		t.Errorf("message %q does not start with %q", s.Message, messagePrefix)
	}
	return message
}

// request is one request through the proxy.
type request struct {
	method, path string // GET if empty; the path is below the proxy's prefix and goes out as it is written
	header       http.Header
	body         string
}

// send starts a request as the job and returns when the header of its answer is there.
func send(ctx context.Context, l *line.Line, agent string, q request) (*http.Response, error) {
	client, err := l.HTTPClient(jobID, agent)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, q.method, l.ProxyURL+q.path, strings.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	for name, values := range q.header {
		r.Header[name] = values
	}
	r.Close = true // no idle connection stays behind
	return client.Do(r)
}

// do is send with the whole body.
func do(ctx context.Context, l *line.Line, agent string, q request) (answer, error) {
	response, err := send(ctx, l, agent, q)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{code: response.StatusCode, header: response.Header, body: string(body)}, err
}

// mustDo is do for what must have an answer.
func mustDo(t *testing.T, l *line.Line, agent string, q request) answer {
	t.Helper()
	a, err := do(soon(t), l, agent, q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// result is what do returned in another goroutine.
type result struct {
	answer
	err error
}

// inBackground runs do beside the test, which must take the result.
func inBackground(t *testing.T, l *line.Line, agent string, q request) <-chan result {
	done := make(chan result, 1)
	ctx := soon(t)
	go func() {
		a, err := do(ctx, l, agent, q)
		done <- result{a, err}
	}()
	return done
}

// await receives one value, within a deadline.
func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-soon(t).Done():
		t.Fatalf("%s: not within the deadline", what)
		panic("unreachable")
	}
}

// raw is a client connection on which a test writes what it likes.
type raw struct {
	net.Conn
	reader *bufio.Reader
	token  string
	host   string
}

// dial opens a connection to the proxy. It ends with the test at the latest.
func dial(t *testing.T, l *line.Line, agent string) *raw {
	t.Helper()
	token, err := l.Bearer(jobID, agent)
	if err != nil {
		t.Fatal(err)
	}
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: l.Authority.Pool, NextProtos: []string{"http/1.1"}}}
	conn, err := dialer.DialContext(soon(t), "tcp", l.ProxyAddress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &raw{Conn: conn, reader: bufio.NewReader(conn), token: token, host: l.ProxyAddress}
}

// ask writes a request header with the job's credential; lines are further header lines.
func (c *raw) ask(t *testing.T, method, path string, lines ...string) {
	t.Helper()
	head := []string{method + " /k8s-proxy" + path + " HTTP/1.1", "Host: " + c.host, "Authorization: Bearer " + c.token}
	c.write(t, strings.Join(append(head, lines...), "\r\n")+"\r\n\r\n")
}

func (c *raw) write(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// response reads the header of the next answer.
func (c *raw) response(t *testing.T, method string) *http.Response {
	t.Helper()
	response, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	return response
}

// expect reads exactly that text.
func (c *raw) expect(t *testing.T, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c.reader, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

// expectEnd reads until the connection ends, one way or the other.
func (c *raw) expectEnd(t *testing.T) {
	t.Helper()
	_, err := io.Copy(io.Discard, c.reader)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the connection does not end")
	}
}

// expectIdle waits until no request is in a tunnel any more, at both ends. Only for lines that no other test uses.
func expectIdle(t *testing.T, l *line.Line, agent string) {
	t.Helper()
	ctx := soon(t)
	line.Eventually(ctx, t, "tunnels are free again", func(ctx context.Context) error {
		kas, err := l.KasMetrics(ctx)
		if err != nil {
			return err
		}
		agentk, err := l.AgentMetrics(ctx, agent)
		if err != nil {
			return err
		}
		return errors.Join(
			expectSample(kas, `kas_tunnels{state="busy"}`, 0, 0),
			expectSample(kas, "kas_proxy_upgrades_active", 0, 0),
			expectSample(agentk, `agentk_tunnels{state="busy"}`, 0, 0),
		)
	})
}

// expectSample says whether a sample of a metrics page is within limits.
func expectSample(page, name string, low, high float64) error {
	value, err := sample(page, name)
	if err == nil && (value < low || value > high) {
		err = fmt.Errorf("%s is %v, want %v to %v", name, value, low, high)
	}
	return err
}

func sample(page, name string) (float64, error) {
	text, found := line.Metric(page, name)
	if !found {
		return 0, fmt.Errorf("there is no %s", name)
	}
	return strconv.ParseFloat(text, 64)
}

// decode reads a JSON body.
func decode(t *testing.T, body string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
}
