package gitlab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
)

// TestStatus holds what becomes of each status at each endpoint, and how often it is asked for.
func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		status         int
		kind           fault.Kind
		agent          fault.Kind
		agentMsg       string
		repeated       bool
		projectRefused bool
	}{
		{400, fault.Internal, fault.Unavailable, "unavailable", false, false},
		{401, fault.Unauthenticated, fault.Unauthenticated, "unauthenticated", false, true},
		{403, fault.PermissionDenied, fault.PermissionDenied, "forbidden", false, true},
		{404, fault.NotFound, fault.NotFound, "agent not found", false, true},
		{409, fault.Internal, fault.Unavailable, "unavailable", false, false},
		{429, fault.Unavailable, fault.Unavailable, "unavailable", true, false},
		{500, fault.Unavailable, fault.Unavailable, "unavailable", true, false},
		{501, fault.Internal, fault.Unavailable, "unavailable", false, false},
		{502, fault.Unavailable, fault.Unavailable, "unavailable", true, false},
		{503, fault.Unavailable, fault.Unavailable, "unavailable", true, false},
		{302, fault.Internal, fault.Unavailable, "unavailable", false, false},
		{202, fault.Internal, fault.Unavailable, "unavailable", false, false},
	} {
		for _, e := range endpoints() {
			t.Run(fmt.Sprintf("%s/%d", e.name, tc.status), func(t *testing.T) {
				r := newRails(t, func(w http.ResponseWriter, req *http.Request) {
					w.Header().Set("Location", "/elsewhere")
					text(tc.status, "application/json", `{"message":"because `+userKey+`"}`)(w, req)
				})
				c := r.start()
				c.form.Store(formHeader)
				got, err := e.call(within(t), c)
				want := 1
				if tc.repeated && !e.once {
					want = 1 + maxRetries
				}
				if e.name == endpointAgentInfo && tc.status == http.StatusNotFound {
					want = 2 // see TestAgentInfo_Moves
				}
				if n := len(r.requests()); n != want {
					t.Errorf("%d requests, want %d", n, want)
				}
				if e.name == endpointProjectAccess && tc.projectRefused {
					if err != nil || got != false {
						t.Errorf("got %v, %v", got, err)
					}
					return
				}
				if err == nil {
					t.Fatal("no error")
				}
				noSecrets(t, "error", err.Error())
				kind, msg := tc.kind, fmt.Sprintf("HTTP status code: %d for path %s", tc.status, r.requests()[0].path)
				switch {
				case e.name == endpointUser:
					msg += " with reason because [secret]"
				case e.agent:
					kind, msg = tc.agent, tc.agentMsg
					if e.name == endpointProjectInfo {
						msg = strings.Replace(msg, "agent not", "project not", 1)
					}
				}
				st, _ := status.FromError(err)
				if fault.KindOf(err) != kind || fault.HopOf(err) != fault.GitLab || st.Code() != kind.Code() || st.Message() != msg {
					t.Errorf("got kind %v, hop %q, status %v", fault.KindOf(err), fault.HopOf(err), st)
				}
				if !e.agent && err.Error() != msg {
					t.Errorf("got %q", err)
				}
				var code *StatusError
				if !errors.As(err, &code) || code.Code != tc.status {
					t.Errorf("the cause is %v", code)
				}
			})
		}
	}
}

// TestBadAnswer holds what becomes of answers that are none.
func TestBadAnswer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		cause  string
	}{
		{"cut off", ok(`{"project_id":`), "is malformed"},
		{"HTML", ok(`<html>gitaly-secret</html>`), "is malformed (line 1:1)"},
		{"wrong type", ok(`{"user":{"username":{"gitaly-secret":1}},"project_id":"gitaly-secret"}`), "is malformed"},
		{"a list", ok(`["gitaly-secret"]`), "is malformed"},
		{"nothing", ok(``), "is malformed"},
		{"empty object", ok(`{}`), "ValidateAll: "},
		{"wrong media type", text(200, "text/html", `{}`), "is not application/json"},
		{"no media type", text(200, "", `{}`), "is not application/json"},
		{"similar media type", text(200, "application/json-patch+json", `{}`), "is not application/json"},
		{"10 MB", ok(`{"x":"` + strings.Repeat("x", 10_000_000) + `"}`), "is bigger than 8388608 bytes"},
		{"no content", bare(204), "HTTP status code: 204"},
		{"not UTF-8", ok("{\"agent_name\":\"\xff\",\"user\":{\"username\":\"\xff\"}}"), "is malformed"},
	} {
		for _, e := range endpoints() {
			if e.answer == "" {
				continue
			}
			t.Run(tc.name+"/"+e.name, func(t *testing.T) {
				r := newRails(t, tc.answer)
				_, err := e.call(within(t), r.start())
				if err == nil || !strings.Contains(err.Error(), tc.cause) {
					t.Fatalf("got %v, want %s", err, tc.cause)
				}
				noSecrets(t, "error", err.Error())
				kind, msg := fault.Internal, err.Error()
				if e.agent {
					kind, msg = fault.Unavailable, "unavailable"
				}
				if st, _ := status.FromError(err); fault.KindOf(err) != kind || st.Message() != msg {
					t.Errorf("got kind %v, status %v", fault.KindOf(err), st)
				}
				if n := len(r.requests()); n != 1 {
					t.Errorf("%d requests", n)
				}
			})
		}
	}
}

// TestAllowedAgents_UnknownAccess: one entry that is not understood spoils all of the answer.
func TestAllowedAgents_UnknownAccess(t *testing.T) {
	for _, mode := range []string{`{"ci_user":{}}`, `{}`, `{"impersonate":{}}`} {
		t.Run(mode, func(t *testing.T) {
			r := newRails(t, ok(strings.Replace(allowedJSON, `"configuration":{}`, `"configuration":{"access_as":`+mode+`}`, 1)))
			answer, err := r.start().AllowedAgents(within(t), jobToken)
			if answer != nil || err == nil || !strings.HasPrefix(err.Error(), "ValidateAll: allowed_agents[1].configuration.access_as") {
				t.Errorf("got %v, %v", answer, err)
			}
		})
	}
}

// TestAllowedAgents_NoEnvironment: most jobs have none.
func TestAllowedAgents_NoEnvironment(t *testing.T) {
	r := newRails(t, ok(strings.Replace(allowedJSON, `,"environment":{"slug":"prod","tier":"production"}`, "", 1)))
	if answer, err := r.start().AllowedAgents(within(t), jobToken); err != nil || answer.Environment != nil {
		t.Errorf("got %v, %v", answer, err)
	}
}

func TestImpossibleTokens(t *testing.T) {
	r := newRails(t, bare(200))
	c := r.start()
	for _, token := range []string{"", "a\nb", "\x00"} {
		if _, err := c.AgentByToken(within(t), token); fault.KindOf(err) != fault.Unauthenticated || err.Error() != "unauthenticated" {
			t.Errorf("agent %q: %v", token, err)
		}
		if _, err := c.ProjectInfo(within(t), token, "1"); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("project %q: %v", token, err)
		}
		if yes, err := c.VerifyProjectAccess(within(t), token, "1"); yes || err != nil && fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("access %q: %v, %v", token, yes, err)
		}
		if _, err := c.AllowedAgents(within(t), token); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("job %q: %v", token, err)
		}
	}
	if _, err := c.ProjectInfo(within(t), agentToken, ""); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no project: %v", err)
	}
	bad := userRequest()
	bad.AccessKey = "\xff"
	if _, err := c.AuthorizeUser(within(t), bad); fault.KindOf(err) != fault.Unauthenticated {
		t.Errorf("not UTF-8: %v", err)
	}
	bad.AgentId = 0
	if _, err := c.AuthorizeUser(within(t), bad); fault.KindOf(err) != fault.InvalidArgument {
		t.Errorf("no agent: %v", err)
	}
	if err := c.PostConfiguration(within(t), 0, nil); fault.KindOf(err) != fault.InvalidArgument {
		t.Errorf("no agent: %v", err)
	}
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestRedirect_NotFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	r := newRails(t, func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, elsewhere.URL, http.StatusFound) })
	if _, err := r.start().AllowedAgents(within(t), jobToken); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("got %v", err)
	}
}

// hanging answers after the request has been given up.
func hanging(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }

func TestSlowHeader(t *testing.T) {
	r := newRails(t, hanging)
	c := r.start()
	c.transport.current.ResponseHeaderTimeout = 20 * time.Millisecond
	_, err := c.AllowedAgents(within(t), jobToken)
	if fault.KindOf(err) != fault.Unavailable || len(r.requests()) != 1+maxRetries {
		t.Errorf("%d requests, %v", len(r.requests()), err)
	}
	r.set(hanging)
	_, err = c.AgentByToken(within(t), agentToken)
	if st, _ := status.FromError(err); fault.KindOf(err) != fault.Unavailable || st.Message() != "unavailable" || len(r.requests()) != 1 {
		t.Errorf("%d requests, %v", len(r.requests()), err)
	}
}

func TestSlowBody(t *testing.T) {
	r := newRails(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	})
	c := r.start()
	c.answerTimeout = 50 * time.Millisecond
	_, err := c.AllowedAgents(within(t), jobToken)
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), errSlow.Error()) {
		t.Errorf("got %v", err)
	}
}

func TestContext(t *testing.T) {
	r := newRails(t, hanging)
	c := r.start()
	for _, e := range endpoints() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := e.call(ctx, c); fault.KindOf(err) != fault.DeadlineExceeded || fault.HopOf(err) != fault.GitLab {
			t.Errorf("%s: %v", e.name, err)
		}
		cancel()
		if _, err := e.call(ctx, c); err == nil {
			t.Errorf("%s: works after its context", e.name)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err := e.call(ctx, c); fault.KindOf(err) != fault.Canceled {
			t.Errorf("%s: %v", e.name, err)
		}
	}
}

func TestConnectionRefused(t *testing.T) {
	r := newRails(t, bare(200))
	r.Start()
	r.Close()
	c := r.client(func(cfg *Config) { cfg.Address = strings.Replace(r.URL, "://", "://kas:pa55word@", 1) })
	for _, e := range endpoints() {
		_, err := e.call(within(t), c)
		if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", e.name, err)
			continue
		}
		noSecrets(t, e.name, err.Error())
		if st, _ := status.FromError(err); e.agent && st.Message() != "unavailable" {
			t.Errorf("%s: the agent reads %q", e.name, st.Message())
		}
	}
}

func TestTLS(t *testing.T) {
	r := newRails(t, ok(allowedJSON))
	r.StartTLS()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})))
	if _, err := r.client(func(cfg *Config) { cfg.CAFile = ca }).AllowedAgents(within(t), jobToken); err != nil {
		t.Errorf("private CA: %v", err)
	}
	c := r.client()
	_, err := c.AllowedAgents(within(t), jobToken)
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown CA: %v", err)
	}
	if n := count(t, c, endpointAllowedAgents, "error"); n != 1 {
		t.Errorf("a bad certificate was tried %v times", n)
	}
}

func TestTLS_CAFileReloaded(t *testing.T) {
	r := newRails(t, ok(allowedJSON))
	r.StartTLS()
	// A certificate that is good for nothing here.
	other := httptest.NewUnstartedServer(nil)
	other.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	other.StartTLS()
	defer other.Close()
	encode := func(s *httptest.Server) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, encode(other))
	logs, observed := observer.New(zap.InfoLevel)
	c := r.client(func(cfg *Config) { cfg.CAFile, cfg.Log = ca, zap.New(logs) })
	if _, err := c.AllowedAgents(within(t), jobToken); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("another CA: %v", err)
	}
	write(t, ca, encode(other)+encode(r.Server))
	if _, err := c.AllowedAgents(within(t), jobToken); err != nil {
		t.Errorf("the new CA: %v", err)
	}
	for range 2 {
		write(t, ca, "half a file")
		if _, err := c.AllowedAgents(within(t), jobToken); err != nil {
			t.Errorf("a broken file: %v", err)
		}
	}
	if n := observed.Len(); n != 1 {
		t.Errorf("%d log lines: %v", n, observed.All())
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestNotHTTP(t *testing.T) {
	r := newRails(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "gitaly-secret\r\n\r\n")
			_ = conn.Close()
		}
	})
	_, err := r.start().AllowedAgents(within(t), jobToken)
	if fault.KindOf(err) != fault.Unavailable || len(r.requests()) != 1+maxRetries {
		t.Errorf("%d requests, %v", len(r.requests()), err)
	}
	noSecrets(t, "error", err.Error())
}
