package faults

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"gitlab.com/agentk/agentk/test/line"
)

// notConnected are the words for an agent that is not there, which users search for.
const notConnected = "Agent connection not found. Is agent up to date and connected?"

func TestAgentToken_Wrong_AgentSaysUnauthenticatedAndJobThatNobodyIsThere(t *testing.T) {
	t.Parallel()
	l := demoLine(t, func(c *line.Config) { c.Agents[0].Revoked, c.Agents[0].Manual = true, true })
	if err := l.SpawnAgent("demo"); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, l, "unauthenticated")
	expectNotConnected(t, l)
}

func TestAgentToken_RevokedWhileConnected_StreamsEndAndJobIsTold(t *testing.T) {
	t.Parallel()
	l := demoLine(t, nil)
	watch := openWatch(t, l)
	if err := l.Update(func(c *line.Config) { c.Agents[0].Revoked = true }); err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the watch of the revoked agent ends", watch); err != nil {
		t.Errorf("the watch ended with %v; want it in order, as at an API server that stops", err)
	}
	awaitLog(t, l, "unauthenticated")
	if _, err := line.WaitLog(soon(t), l.KasLog, "Agent token is no longer valid"); err != nil {
		t.Error(err)
	}
	expectKasIdle(t, l)
	expectNotConnected(t, l)
	if err := l.Update(func(c *line.Config) { c.Agents[0].Revoked = false }); err != nil {
		t.Fatal(err)
	}
	line.Eventually(soon(t), t, "the agent is let in again", func(ctx context.Context) error {
		a, err := do(ctx, l, "demo", request{path: "/version"})
		if err == nil && a.code != http.StatusOK {
			err = errors.New(a.body)
		}
		return err
	})
}

func TestJobToken_RevokedAfterUse_NextRequestIsRefused(t *testing.T) {
	t.Parallel()
	l := demoLine(t, nil)
	if a := mustDo(t, l, "demo", request{path: "/version"}); a.code != http.StatusOK {
		t.Fatalf("GET /version: %d %s", a.code, a.body)
	}
	bearer, err := l.Bearer(jobID, "demo")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Update(func(c *line.Config) { c.Jobs[0].Token = "another" }); err != nil {
		t.Fatal(err)
	}
	ctx := soon(t)
	var last answer
	line.Eventually(ctx, t, "the old token is refused", func(ctx context.Context) error {
		var err error
		last, err = do(ctx, l, "demo", request{path: "/version", header: http.Header{"Authorization": {"Bearer " + bearer}}})
		if err == nil && last.code == http.StatusOK {
			err = errors.New("it is still let in")
		}
		return err
	})
	if message := last.refusal(t, http.StatusUnauthorized, "Unauthorized"); !strings.HasPrefix(message, "Unauthorized: CI job token: HTTP status code: 401") {
		t.Errorf("message %q", message)
	}
}

// awaitLog waits until the agent's log has a text.
func awaitLog(t *testing.T, l *line.Line, text string) {
	t.Helper()
	if _, err := line.WaitLog(soon(t), func() string { return l.AgentLog("demo") }, text); err != nil {
		t.Fatal(err)
	}
}

// expectNotConnected: a job gets the words for an agent that is not there.
func expectNotConnected(t *testing.T, l *line.Line) {
	t.Helper()
	message := mustDo(t, l, "demo", request{path: "/version"}).refusal(t, http.StatusBadGateway, "")
	want := "HTTP->gRPC: failed to read gRPC response: rpc error: code = DeadlineExceeded desc = " + notConnected
	if !strings.HasPrefix(message, want) {
		t.Errorf("message %q, want it to start with %q", message, want)
	}
}

// expectKasIdle waits until kas has no stream of any agent any more.
func expectKasIdle(t *testing.T, l *line.Line) {
	t.Helper()
	line.Eventually(soon(t), t, "kas lets go of the agent's streams", func(ctx context.Context) error {
		page, err := l.KasMetrics(ctx)
		if err != nil {
			return err
		}
		return errors.Join(expectSample(page, `kas_tunnels{state="busy"}`, 0, 0), expectSample(page, `kas_tunnels{state="idle"}`, 0, 0))
	})
}
