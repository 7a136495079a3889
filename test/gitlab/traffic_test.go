package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	g := start(t, Config{})
	token, err := g.CreateToken(edgeID)
	check(t, err)
	ask := func() *reply { return g.ask(t, "GET", agentInfoPath, g.agentHeader(t, token.Value, HeaderAgent), nil) }
	for _, status := range []int{400, 401, 403, 404, 429, 500, 503} {
		g.Break(AgentInfo, Fault{Status: status, Message: "on purpose", RetryAfter: "3", Times: 1})
		r := ask()
		wantStatus(t, r, status)
		if r.json(t)["message"] != "on purpose" || r.header.Get("Retry-After") != "3" {
			t.Errorf("%v %s", r.header, r.body)
		}
		wantStatus(t, ask(), http.StatusOK)
	}
	g.Break(AgentInfo, Fault{Status: http.StatusCreated})
	if r := ask(); r.status != http.StatusCreated || r.json(t)["agent_id"] != 7.0 {
		t.Errorf("201: %d %s", r.status, r.body)
	}
	g.Break(AgentInfo, Malformed())
	if r := ask(); r.status != http.StatusOK || json.Valid(r.body) {
		t.Errorf("malformed: %d %s", r.status, r.body)
	}
	g.Break(AgentInfo, Huge())
	if r := ask(); len(r.body) < 10_000_000 || r.json(t)["agent_id"] != 7.0 {
		t.Errorf("huge: %d bytes", len(r.body))
	}
	g.Break(AgentInfo, Fault{ContentType: "text/html"})
	if r := ask(); r.header.Get("Content-Type") != "text/html" {
		t.Errorf("media type: %v", r.header)
	}
	g.Break(AgentInfo, Fault{Delay: time.Millisecond})
	wantStatus(t, ask(), http.StatusOK)
	g.Mend(AgentInfo)
	wantStatus(t, ask(), http.StatusOK)
	g.ForgetRequests()
	if got := g.Requests(AgentInfo); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestFaults_NoAnswer(t *testing.T) {
	g := start(t, Config{})
	ask := func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL+allowedPath, http.NoBody)
		check(t, err)
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}
	g.Break(AllowedAgents, Fault{Cut: true})
	if err := ask(t.Context()); err == nil {
		t.Error("cut: there is an answer")
	}
	g.Break(AllowedAgents, Fault{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- ask(context.Background()) }()
	for len(g.Requests(AllowedAgents)) < 3 {
		if t.Context().Err() != nil {
			t.Fatal("the request does not arrive")
		}
	}
	g.Stop()
	if err := <-done; err == nil {
		t.Error("stopped: there is an answer")
	}
}

func TestUnknownPaths(t *testing.T) {
	g := start(t, Config{})
	for _, path := range []string{"/api/v4/internal/kubernetes/nothing", "/api/v4/nothing", "/nothing", "/"} {
		wantStatus(t, g.ask(t, "GET", path, nil, nil), http.StatusNotFound)
	}
}
