package k8sproxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

// secureLine is a line whose proxy listens with TLS.
type secureLine struct {
	*line
	roots *x509.CertPool
	// client speaks HTTP/2 and keeps its connection.
	client *http.Client
}

func newSecureLine(t *testing.T, play func(a *agenttest.Agent) error, edit ...func(*k8sproxy.Config)) *secureLine {
	t.Helper()
	owner := httptest.NewTLSServer(http.NotFoundHandler())
	certificates, roots := owner.TLS.Certificates, x509.NewCertPool()
	roots.AddCert(owner.Certificate())
	owner.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln = tls.NewListener(ln, &tls.Config{Certificates: certificates, NextProtos: k8sproxy.ALPN()})
	l := &secureLine{line: newLineAt(t, ln, play, edit...), roots: roots}
	l.url = "https://" + l.addr + "/k8s-proxy"
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	l.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return l
}

// request is one that the client's credential allows.
func (l *secureLine) request(ctx context.Context, method, path string, body io.Reader, header ...string) *http.Request {
	l.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, l.url+path, body)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Authorization", ciBearer)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

// open returns when the header of the answer is there.
func (l *secureLine) open(ctx context.Context, method, path string, body io.Reader, header ...string) *http.Response {
	l.t.Helper()
	resp, err := l.client.Do(l.request(ctx, method, path, body, header...))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.ProtoMajor != 2 {
		l.t.Errorf("the answer came with %s", resp.Proto)
	}
	return resp
}

// get performs a request, and says whether it used a connection that another one had used.
func (l *secureLine) get(path string) (answer, bool) {
	l.t.Helper()
	reused := false
	ctx := httptrace.WithClientTrace(l.t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	resp := l.open(ctx, "GET", path, nil)
	body, err := io.ReadAll(resp.Body)
	return answer{Response: resp, body: string(body), err: err}, reused
}

func TestHTTP2_OfferedByALPN(t *testing.T) {
	l := newSecureLine(t, (&seen{}).record)
	for _, tt := range []struct {
		offers []string
		want   string
	}{{nil, ""}, {[]string{"http/1.1"}, "http/1.1"}, {[]string{"http/1.1", "h2"}, "h2"}, {[]string{"h2"}, "h2"}} {
		conn, err := tls.Dial("tcp", l.addr, &tls.Config{RootCAs: l.roots, NextProtos: tt.offers})
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != tt.want {
			t.Errorf("offered %q: %q, want %q", tt.offers, got, tt.want)
		}
		if tt.want != "h2" {
			_, _ = io.WriteString(conn, "GET /k8s-proxy/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "+ciBearer+"\r\n\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 || resp.Proto != "HTTP/1.1" {
				t.Errorf("offered %q: %v, %v", tt.offers, resp, err)
			}
		}
		_ = conn.Close()
	}
	if got, _ := l.get("/version"); got.StatusCode != 200 || got.body != "from the cluster" {
		t.Errorf("%v %q", got.Response, got.body)
	}
	// Without TLS there is nothing to choose.
	plain := newLine(t, (&seen{}).record)
	conn, r := plain.dial()
	_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 4") {
		t.Errorf("%q, %v", line, err)
	}
}

// What travels on is the same with both versions.
func TestHTTP2_WhatTheAgentGets(t *testing.T) {
	s := &seen{}
	l := newSecureLine(t, s.record)
	req := l.request(t.Context(), "POST", "/api?b=2&a=1", strings.NewReader("body"), "Te", "trailers", "X-Remote-User", "system:admin", "Accept", "application/json")
	req.Host = "evil.test"
	req.Trailer = http.Header{"Impersonate-User": {"system:admin"}}
	req.Header.Del("Authorization")
	// A client may send each pair of a Cookie as a field of its own, and net/http does.
	req.Header["Cookie"] = []string{"a=1; _gitlab_kas=canary-cookie; b=2"}
	req.Header.Set("Gitlab-Agent-Id", "7")
	req.Header.Set("X-Csrf-Token", "canary-csrf")
	got := l.read(l.client, req)
	if got.StatusCode != 200 || got.ProtoMajor != 2 || got.body != "from the cluster" || s.body != "body" {
		t.Fatalf("%v %q, the agent got %q", got.Response, got.body, s.body)
	}
	h := s.headers(t)
	for _, name := range []string{"Via", "User-Agent", "Accept-Encoding", "Content-Length"} {
		delete(h, name)
	}
	if len(h) != 1 || h.Get("Accept") != "application/json" {
		t.Errorf("the agent got %v", h)
	}
	if asked := l.users.asked; len(asked) != 1 || asked[0].AccessKey != "canary-cookie" || asked[0].CsrfToken != "canary-csrf" {
		t.Errorf("asked %v", asked)
	}
}

func TestHTTP2_ExpectContinue(t *testing.T) {
	s := &seen{}
	l := newSecureLine(t, s.record)
	l.client.Transport.(*http.Transport).ExpectContinueTimeout = patience
	told := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
		told = code == http.StatusContinue
		return nil
	}})
	got := l.open(ctx, "POST", "/api", strings.NewReader("body"), "Expect", "100-continue")
	if got.StatusCode != 200 || !told || s.body != "body" {
		t.Errorf("%d, continue %v, the agent got %q", got.StatusCode, told, s.body)
	}
	// Who may not send is told so before the body.
	req := l.request(t.Context(), "POST", "/api", strings.NewReader("body"), "Expect", "100-continue")
	req.Header.Set("Authorization", "Bearer nonsense")
	if got := l.read(l.client, req); got.StatusCode != 401 || got.ProtoMajor != 2 {
		t.Errorf("%v", got.Response)
	}
}

// Both directions flow at the same time, and each piece goes out as it comes.
func TestHTTP2_FullDuplex(t *testing.T) {
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		for {
			member, data, err := a.Recv()
			if err != nil {
				return err
			}
			if member == agenttest.Trailer {
				return a.Trailer()
			}
			if err := a.Data(string(data)); err != nil {
				return err
			}
		}
	})
	body, sent := io.Pipe()
	resp := l.open(t.Context(), "POST", "/echo", body)
	for _, word := range []string{"ping", "pong"} {
		_, _ = io.WriteString(sent, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != word {
			t.Fatalf("%q, %v", got, err)
		}
	}
	_ = sent.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// An answer before the end of its request ends that stream and leaves the connection to the others.
func TestHTTP2_EarlyAnswerKeepsConnection(t *testing.T) {
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		if h.GetRequest().GetUrlPath() == "/late" {
			if _, err := a.Body(false); err != nil {
				return err
			}
			return a.Answer(200, "")
		}
		return a.Answer(413, "too much")
	})
	l.get("/other")
	body, sent := io.Pipe()
	defer func() { _ = sent.Close() }()
	resp := l.open(t.Context(), "POST", "/large", body)
	if got, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(got) != "too much" || err != nil {
		t.Errorf("%d %q, %v", resp.StatusCode, got, err)
	}
	if got, reused := l.get("/late"); got.StatusCode != 200 || !reused {
		t.Errorf("%d, on the same connection: %v", got.StatusCode, reused)
	}
}

// An answer that breaks off is reset, and its neighbours on the connection are not.
func TestHTTP2_AbortEndsOneStream(t *testing.T) {
	lose := make(chan struct{})
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		if err := a.Data("event\n"); err != nil {
			return err
		}
		select {
		case <-lose:
		case <-a.Ctx.Done():
			return a.Ctx.Err()
		}
		if h.GetRequest().GetUrlPath() == "/list" {
			return agentLost{}
		}
		if err := a.Data("more\n"); err != nil {
			return err
		}
		return a.Trailer()
	})
	neighbour := l.open(t.Context(), "GET", "/neighbour", nil)
	list := l.open(t.Context(), "GET", "/list", nil)
	watch := l.open(t.Context(), "GET", "/list?watch=1", nil)
	close(lose)
	if got, err := io.ReadAll(list.Body); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("%q looks complete", got)
	}
	if got, err := io.ReadAll(watch.Body); string(got) != "event\n" || err != nil {
		t.Errorf("the watch ends with %q, %v", got, err)
	}
	if got, err := io.ReadAll(neighbour.Body); string(got) != "event\nmore\n" || err != nil {
		t.Errorf("the neighbour got %q, %v", got, err)
	}
	if _, reused := l.get("/neighbour"); !reused {
		t.Error("the connection is closed")
	}
}

// Each event of a watch goes out when it comes, and the cluster hears at once of a client that has had enough.
func TestHTTP2_WatchFlowsAndItsClientLeaves(t *testing.T) {
	events, gone := make(chan string), make(chan struct{})
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		for {
			select {
			case e := <-events:
				if err := a.Data(e); err != nil {
					return err
				}
			case <-a.Ctx.Done():
				close(gone)
				return a.Ctx.Err()
			}
		}
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	body := bufio.NewReader(l.open(ctx, "GET", "/pods?watch=1", nil).Body)
	for _, e := range []string{"a\n", "b\n"} {
		events <- e
		if got, err := body.ReadString('\n'); got != e || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	leave()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the cluster is not told")
	}
	want(t, l.line, func() bool { return l.logs.FilterMessage("Kubernetes API request").Len() == 1 })
}

// Who does not read an answer holds up that answer only.
func TestHTTP2_SlowReaderHoldsUpItsStreamOnly(t *testing.T) {
	full := strings.Repeat("x", 32<<10)
	const pieces = 512 // 16 MiB, far more than what fits on the way
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		if h.GetRequest().GetUrlPath() == "/small" {
			return a.Answer(200, "small")
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		for range pieces {
			if err := a.Data(full); err != nil {
				return err
			}
		}
		return a.Trailer()
	})
	large := []*http.Response{l.open(t.Context(), "GET", "/large", nil), l.open(t.Context(), "GET", "/large", nil)}
	for range 20 {
		if got, reused := l.get("/small"); got.body != "small" || got.err != nil || !reused {
			t.Fatalf("%q, %v, on the same connection: %v", got.body, got.err, reused)
		}
	}
	for _, resp := range large {
		if n, err := io.Copy(io.Discard, resp.Body); n != pieces*int64(len(full)) || err != nil {
			t.Errorf("then the reader got %d bytes, %v", n, err)
		}
	}
}

// While kas stops, an answer sends the connection's client elsewhere, what runs on it goes on, and what has no end is ended in order.
func TestHTTP2_Leaving(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	l := newSecureLine(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		switch h.GetRequest().GetUrlPath() {
		case "/late":
			if err := a.Respond(200); err != nil {
				return err
			}
			select {
			case <-release:
			case <-a.Ctx.Done():
				return a.Ctx.Err()
			}
		case "/watch":
			if err := a.Respond(200); err != nil {
				return err
			}
			<-a.Ctx.Done()
			return a.Ctx.Err()
		default:
			return a.Answer(200, "served")
		}
		if err := a.Data("in time"); err != nil {
			return err
		}
		return a.Trailer()
	}, func(c *k8sproxy.Config) { c.ListenGracePeriod, c.ShutdownGracePeriod = 3*time.Second, 3*time.Second })
	late := l.open(t.Context(), "GET", "/late", nil)
	watch := l.open(t.Context(), "GET", "/watch?watch=1", nil)
	if _, reused := l.get("/version"); !reused {
		t.Fatal("a connection of its own before the stop")
	}
	l.stop()
	moved := func() bool {
		got, reused := l.get("/version")
		if got.StatusCode != 200 || got.body != "served" || got.Header.Get("Connection") != "" {
			t.Fatalf("%v %q", got.Response, got.body)
		}
		return !reused
	}
	want(t, l.line, moved)
	close(release)
	if got, err := io.ReadAll(late.Body); string(got) != "in time" || err != nil {
		t.Errorf("what was in flight: %q, %v", got, err)
	}
	if got, err := io.ReadAll(watch.Body); len(got) != 0 || err != nil {
		t.Errorf("the watch ended with %q, %v", got, err)
	}
	l.stopped(t)
}

// A connection that only waits is told before it is closed, so that no request is sent into its end.
func TestHTTP2_IdleConnectionGetsGoAway(t *testing.T) {
	t.Parallel()
	l := newSecureLine(t, (&seen{}).record)
	frames := l.frames()
	l.stop()
	if last := frames.goAway(t); last != 0 {
		t.Errorf("the last stream was %d", last)
	}
	l.stopped(t)
}
