package k8sapi

import (
	"bufio"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/version"
)

const waitLimit = time.Minute

// apiServer is an HTTPS server that speaks HTTP/2, as an API server does.
func apiServer(t *testing.T, handler http.HandlerFunc) *rest.Config {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return &rest.Config{Host: s.URL + "/prefix", BearerToken: "agent-token", TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
}

// start returns a running Client.
func start(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.Log = zaptest.NewLogger(t)
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return c
}

func get(t *testing.T, path string, header ...string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.URL = &url.URL{Path: path}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

func identity(t *testing.T, id *kubernetesapi.ImpersonationConfig) *anypb.Any {
	t.Helper()
	return extra(t, &kubernetesapi.HeaderExtra{ImpConfig: id})
}

func extra(t *testing.T, h *kubernetesapi.HeaderExtra) *anypb.Any {
	t.Helper()
	a, err := anypb.New(h)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// body performs req and returns the answer's body.
func body(t *testing.T, c *Client, req *http.Request, extra *anypb.Any) (*http.Response, string) {
	t.Helper()
	resp, err := c.RoundTrip(req, extra)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// echo answers with what matters of the request, one line each.
func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s %s\n", r.Method, r.RequestURI, r.Proto)
	for _, name := range []string{"Authorization", "Accept-Encoding", "Via", "Connection", "Keep-Alive", "Cookie", "Sec-Websocket-Protocol"} {
		for _, v := range r.Header.Values(name) {
			fmt.Fprintf(w, "%s: %s\n", name, v)
		}
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Remote") || strings.HasPrefix(name, "Impersonate") {
			fmt.Fprintf(w, "%s: %s\n", name, strings.Join(r.Header[name], ","))
		}
	}
}

// TestClient_Connections: what is soon over has an HTTP/1.1 connection for itself, what lasts or comes on top shares one.
func TestClient_Connections(t *testing.T) {
	hold := make(chan struct{})
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-hold
		}
		echo(w, r)
	})})
	proto := func(path, query string) string {
		req := get(t, path)
		req.URL.RawQuery = query
		resp, _ := body(t, c, req, nil)
		return resp.Proto
	}
	for query, want := range map[string]string{
		"": "HTTP/1.1", "watch=0": "HTTP/1.1", "watch=false": "HTTP/1.1", "watch=1": "HTTP/2.0", "watch=true": "HTTP/2.0", "follow=true": "HTTP/2.0",
	} {
		if got := proto("/api", query); got != want {
			t.Errorf("?%s went over %s, want %s", query, got, want)
		}
	}
	var wg sync.WaitGroup
	arrived := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(waitLimit); len(c.own.free) < n || len(c.own.opening) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the slow requests did not start")
			}
		}
	}
	for i := range maxQuick { // one after the other: few connections are opened at once
		wg.Go(func() { proto("/slow", "") })
		arrived(i + 1)
	}
	if got := proto("/api", ""); got != "HTTP/2.0" {
		t.Errorf("beyond the bound a request went over %s", got)
	}
	close(hold)
	wg.Wait()
	if got := proto("/api", ""); got != "HTTP/1.1" || len(c.own.free) != 0 {
		t.Errorf("afterwards a request went over %s, %d places are taken", got, len(c.own.free))
	}
}

// A burst that meets an agent at rest opens few connections, and all its requests are answered.
func TestClient_Burst(t *testing.T) {
	var mu sync.Mutex
	connections := map[string]bool{}
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		connections[r.RemoteAddr] = true
		mu.Unlock()
		echo(w, r)
	})})
	const burst = 200
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range burst {
		wg.Go(func() {
			<-begin
			body(t, c, get(t, "/api"), nil)
		})
	}
	close(begin)
	wg.Wait()
	if n := len(connections); n > burst/2 {
		t.Errorf("%d requests opened %d connections", burst, n)
	}
	if len(c.own.free)+len(c.own.opening)+len(c.own.first) != 0 {
		t.Error("places stay taken")
	}
}

func TestClient_Plain(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, echo)})
	req := get(t, "/api/v1/x y", "Via", "gRPC/1.0 kas", "Authorization", "Bearer requester",
		"Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.cmVxdWVzdGVy, v4.channel.k8s.io")
	req.URL.RawQuery = "a=1"
	resp, got := body(t, c, req, nil)
	want := "GET /api/v1/x%20y?a=1 HTTP/1.1\nAuthorization: Bearer agent-token\nVia: gRPC/1.0 kas\nVia: gRPC/1.0 " + version.Agentk() + "\n" +
		"Sec-Websocket-Protocol: v4.channel.k8s.io\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if via := resp.Header.Get("Via"); via != "1.1 "+version.Agentk() {
		t.Error(via)
	}
	if req.Header.Get("Authorization") == "" || req.URL.Host != "" {
		t.Error("the request was changed")
	}
}

func TestClient_Body(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %s", r.ContentLength, b)
	})})
	for _, tc := range []struct {
		length int64
		want   string
	}{{3, "3 abc"}, {-1, "-1 abc"}} {
		req := get(t, "/")
		req.Method, req.Body, req.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader("abc")), tc.length
		if _, got := body(t, c, req, nil); got != tc.want {
			t.Error(got)
		}
	}
}

// No compression that the client did not ask for; what it asked for passes untouched.
func TestClient_Encoding(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			w.Header().Set("Content-Encoding", "gzip")
		}
		fmt.Fprint(w, "raw")
	})})
	resp, got := body(t, c, get(t, "/"), nil)
	if resp.Header.Get("Content-Encoding") != "" || got != "raw" {
		t.Error(resp.Header, got)
	}
	resp, got = body(t, c, get(t, "/", "Accept-Encoding", "gzip"), nil)
	if resp.Header.Get("Content-Encoding") != "gzip" || got != "raw" {
		t.Error(resp.Header, got)
	}
}

// CVE-2020-8559, CVE-2022-3172, CVE-2021-25320: credentials never follow a redirect, on either path.
func TestClient_CVE_2020_8559_RedirectIsNotFollowed(t *testing.T) {
	hits := make(chan string, 10)
	other := apiServer(t, func(_ http.ResponseWriter, r *http.Request) { hits <- r.URL.Path })
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.Host, http.StatusFound)
	})})
	for _, header := range [][]string{nil, {"Upgrade", "SPDY/3.1", "Connection", "upgrade"}} {
		resp, _ := body(t, c, get(t, "/", header...), nil)
		if resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != other.Host {
			t.Error(resp.Status, resp.Header)
		}
	}
	if len(hits) > 0 {
		t.Error("redirect was followed")
	}
}

// CVE-2018-18843: whatever the request says, it goes to the API server.
func TestClient_CVE_2018_18843_OnlyTheAPIServer(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.Host, r.RequestURI)
	})})
	host := c.base.Host
	req := get(t, "//other.example/x", "Host", "other.example")
	req.Host = "other.example"
	if _, got := body(t, c, req, nil); got != host+" //other.example/x" {
		t.Error(got)
	}
	for _, method := range []string{http.MethodConnect, http.MethodTrace} {
		req := get(t, "/")
		req.Method = method
		wantRefused(t, c, req, nil, "not supported")
	}
}

func wantRefused(t *testing.T, c *Client, req *http.Request, extra *anypb.Any, text string) {
	t.Helper()
	resp, err := c.RoundTrip(req, extra)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatal("the request was performed")
	}
	if fault.KindOf(err) != fault.InvalidArgument || fault.HopOf(err) != fault.Agent || !strings.Contains(err.Error(), text) {
		t.Errorf("%v %v %v", fault.KindOf(err), fault.HopOf(err), err)
	}
}

func TestClient_EscapedPath(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, echo)})
	for _, tc := range []struct{ path, escaped, want string }{
		{"/api/a/b", "/api/a%2Fb", "/api/a%2Fb"},
		{"/api/a b", "/api/a%20b", "/api/a%20b"},
		{"/api/a/b", "", "/api/a/b"},
		{"/api/a/b", "/api/a%2Fc", "refused"},
		{"/api/a", "/api/../secrets", "refused"},
		{"/api/a", "/api/a?x=1", "refused"},
		{"/api/a", "/api/%zz", "refused"},
		{"/api/a b", "/api/a b", "refused"},
	} {
		x := extra(t, &kubernetesapi.HeaderExtra{EscapedPath: tc.escaped})
		if tc.want == "refused" {
			wantRefused(t, c, get(t, tc.path), x, "escaped path")
			continue
		}
		if _, got := body(t, c, get(t, tc.path), x); !strings.HasPrefix(got, "GET "+tc.want+" ") {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}

func TestClient_BadExtra(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, echo)})
	other, err := anypb.New(&kubernetesapi.ImpersonationConfig{Username: "x"})
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, c, get(t, "/"), other, "extra")
	broken := extra(t, &kubernetesapi.HeaderExtra{})
	broken.Value = []byte{0xff}
	wantRefused(t, c, get(t, "/"), broken, "extra")
}

func TestClient_Unreachable(t *testing.T) {
	cfg := apiServer(t, echo)
	cfg.Host = "https://127.0.0.1:1"
	c := start(t, Config{REST: cfg})
	_, err := c.RoundTrip(get(t, "/"), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "Kubernetes API server: ") || strings.Contains(err.Error(), "agent-token") {
		t.Error(err)
	}
}

func TestClient_Upgrade(t *testing.T) {
	c := start(t, Config{REST: apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.Header.Get("Connection") != "upgrade" || r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			t.Errorf("%s %v", r.Proto, r.Header)
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		// The first raw bytes travel with the head.
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: %s\r\nConnection: Upgrade\r\nX-User: %s\r\n\r\nfirst\n",
			r.Header.Get("Upgrade"), r.Header.Get("Impersonate-User"))
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = conn.Write([]byte("echo " + line))
	})})
	req := get(t, "/exec", "Upgrade", "SPDY/3.1", "Connection", "upgrade")
	req.Method = http.MethodPost
	resp, err := c.RoundTrip(req, identity(t, &kubernetesapi.ImpersonationConfig{Username: "jane"}))
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "SPDY/3.1" || resp.Header.Get("Connection") != "upgrade" || resp.Header.Get("X-User") != "jane" {
		t.Error(resp.Status, resp.Header)
	}
	conn := resp.Body.(io.ReadWriteCloser)
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); line != "first\n" {
		t.Error(line, err)
	}
	if _, err := conn.Write([]byte("ping\n")); err != nil {
		t.Error(err)
	}
	if line, err := r.ReadString('\n'); line != "echo ping\n" {
		t.Error(line, err)
	}
	if _, err := r.ReadByte(); err == nil {
		t.Error("connection goes on")
	}
}

// CVE-2018-1002105: a refused upgrade leaves no connection open.
func TestClient_CVE_2018_1002105_RefusedUpgradeCloses(t *testing.T) {
	closed := make(chan struct{})
	cfg := apiServer(t, func(w http.ResponseWriter, r *http.Request) {
		context.AfterFunc(r.Context(), func() { close(closed) })
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, "no")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := start(t, Config{REST: cfg})
	resp, err := c.RoundTrip(get(t, "/exec", "Upgrade", "websocket"), nil)
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
	select {
	case <-closed:
	case <-time.After(waitLimit):
		t.Error("connection stays open")
	}
}
