package gitlab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.com/agentk/agentk/internal/fault"
)

func moduleRequest(t *testing.T, method, target string, body io.Reader) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{Method: method, URL: u, Header: http.Header{}}
	if body != nil {
		r.Body = io.NopCloser(body)
	}
	return r
}

func TestModule_PassesOn(t *testing.T) {
	r := newRails(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Answer", "1")
		text(http.StatusConflict, "text/weird", "raw")(w, req)
	})
	c := r.start()
	ask := moduleRequest(t, "PUT", "/a%2Fb/c?x=1&y=%20", strings.NewReader(`{"uuid":1}`))
	ask.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"a/b"}, "X-Own": {"1", "2"}, "Connection": {"X-Hop"}, "X-Hop": {"1"},
		"Authorization": {"Bearer other"}, "User-Agent": {"evil"}, "Cookie": {"c"}, "Job-Token": {"j"}, "private-token": {"p"}, "Job_Token": {"j"},
		"Gitlab-Kas-Api-Request": {"forged"}, "Gitlab_Kas_Api_Request": {"forged"}, "Gitlab-Agent-Api-Request": {"other"}, "Gitlab-Shell-Api-Request": {"x"},
		"X-Forwarded-For": {"1.2.3.4"}, "Upgrade": {"websocket"}, "Expect": {"100-continue"},
	}
	resp, err := c.Module(within(t), agentToken, "starboard_vulnerability", ask)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "raw" || resp.StatusCode != http.StatusConflict || resp.Header.Get("X-Answer") != "1" {
		t.Errorf("got %d %q %v", resp.StatusCode, body, err)
	}
	_ = resp.Body.Close()
	s := r.requests()[0]
	if s.method != "PUT" || s.path != prefix+"/api/v4/internal/kubernetes/modules/starboard_vulnerability/a%2Fb/c" || s.query != "x=1&y=%20" || s.body != `{"uuid":1}` {
		t.Errorf("got %+v", s)
	}
	s.header.Del(headerJWT)
	want := http.Header{
		"Content-Type": {"application/json"}, "Accept": {"a/b"}, "X-Own": {"1", "2"}, "User-Agent": {"gitlab-kas/v1/c0ffee"},
		"Gitlab-Agent-Api-Request": {agentToken}, "Gitlab-Agentk-Api-Request": {agentToken}, "Content-Length": {"10"}, "Accept-Encoding": {"gzip"},
	}
	if diff := cmp.Diff(want, s.header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

// TestModule_LastAnswerIsPassedOn: a failure is repeated, and then shown as GitLab put it.
func TestModule_LastAnswerIsPassedOn(t *testing.T) {
	r := newRails(t, text(http.StatusServiceUnavailable, "text/plain", "deploy in progress"))
	resp, err := r.start().Module(within(t), agentToken, "m", moduleRequest(t, "POST", "/", strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 503 || string(body) != "deploy in progress" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	requests := r.requests()
	if len(requests) != 1+maxRetries {
		t.Errorf("%d requests", len(requests))
	}
	for _, s := range requests {
		if s.body != "body" {
			t.Errorf("body %q", s.body)
		}
	}
}

// TestModule_OldGitLab: the request is repeated whole with the token in Authorization.
func TestModule_OldGitLab(t *testing.T) {
	r := newRails(t, reads("Authorization", "Bearer "+agentToken))
	resp, err := r.start().Module(within(t), agentToken, "m", moduleRequest(t, "POST", "/", strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if requests := r.requests(); resp.StatusCode != 200 || len(requests) != 2 || requests[1].body != "body" {
		t.Errorf("got %d after %+v", resp.StatusCode, requests)
	}
}

// TestModule_SlowAnswer: the time limit of other answers does not hold for what is passed on.
func TestModule_SlowAnswer(t *testing.T) {
	more := make(chan struct{})
	r := newRails(t, func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-more:
			_, _ = io.WriteString(w, "late")
		case <-req.Context().Done():
		}
	})
	c := r.start()
	c.answerTimeout = 200 * time.Millisecond
	resp, err := c.Module(within(t), agentToken, "m", moduleRequest(t, "GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	time.AfterFunc(2*c.answerTimeout, func() { close(more) })
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "late" {
		t.Errorf("got %q, %v", body, err)
	}
}

// TestModule_LeadsAway: kas's proof of identity must not reach another part of the internal API.
func TestModule_LeadsAway(t *testing.T) {
	r := newRails(t, bare(200))
	c := r.start()
	for _, target := range []string{
		"/../agent_configuration", "/..", "/.", "/a/../../x", "/a/./b", "/%2e%2e/x", "/.%2E/x", "/%252e%252e/x", "/%25252e%25252e/x", "/..%2fx", "/..%5cx",
		"/a%2f..%2f..%2fx", "/..;/x", "/..%00/x", "/%2e%2e%3b/x", "/%2525252525252e", "/%252e%252e/%25zz",
	} {
		_, err := c.Module(within(t), agentToken, "m", moduleRequest(t, "POST", target, nil))
		if fault.KindOf(err) != fault.InvalidArgument {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, module := range []string{"", ".", "..", "a/b", `a\b`, "../x", "%2e%2e", "a\nb"} {
		if _, err := c.Module(within(t), agentToken, module, moduleRequest(t, "GET", "/", nil)); fault.KindOf(err) != fault.InvalidArgument {
			t.Errorf("module %q: %v", module, err)
		}
	}
	for _, method := range []string{"CONNECT", "TRACE", "A B"} {
		if _, err := c.Module(within(t), agentToken, "m", moduleRequest(t, method, "/", nil)); fault.KindOf(err) != fault.InvalidArgument {
			t.Errorf("method %q: %v", method, err)
		}
	}
	noSlash := &http.Request{Method: "GET", URL: &url.URL{Path: "x"}}
	if _, err := c.Module(within(t), agentToken, "m", noSlash); fault.KindOf(err) != fault.InvalidArgument {
		t.Errorf("no slash: %v", err)
	}
	for _, token := range []string{"", "a\nb"} {
		if _, err := c.Module(within(t), token, "m", moduleRequest(t, "GET", "/", nil)); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
	for _, target := range []string{"/", "/...", "/a..b/.c", "/100%25", "/a;b", "//"} {
		resp, err := c.Module(within(t), agentToken, "m", moduleRequest(t, "GET", target, nil))
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		_ = resp.Body.Close()
	}
}

func TestModule_BadBody(t *testing.T) {
	r := newRails(t, bare(200))
	c := r.start()
	huge := bytes.NewReader(make([]byte, maxModuleBody+1))
	if _, err := c.Module(within(t), agentToken, "m", moduleRequest(t, "POST", "/", huge)); fault.KindOf(err) != fault.ResourceExhausted ||
		!strings.Contains(err.Error(), "33554432") {
		t.Errorf("huge: %v", err)
	}
	broken := iotest.ErrReader(errors.New("stream ended"))
	if _, err := c.Module(within(t), agentToken, "m", moduleRequest(t, "POST", "/", broken)); fault.HopOf(err) != fault.Agent {
		t.Errorf("broken: %v", err)
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestModule_NoAnswer(t *testing.T) {
	r := newRails(t, hanging)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.start().Module(ctx, agentToken, "m", moduleRequest(t, "GET", "/", nil)); fault.KindOf(err) != fault.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}
