package k8sproxy_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

// While kas stops, requests on connections that are kept alive are served, and each answer sends its client elsewhere.
func TestServe_SendsClientsElsewhere(t *testing.T) {
	l := newLine(t, func(a *agenttest.Agent) error {
		if _, _, err := a.Whole(); err != nil {
			return err
		}
		return a.Answer(200, "served")
	}, func(c *k8sproxy.Config) { c.ListenGracePeriod, c.ShutdownGracePeriod = 4*time.Second, time.Minute })
	conn, r := l.dial()
	ask := func(more string) *http.Response {
		t.Helper()
		_, _ = io.WriteString(conn, "POST /k8s-proxy/ HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\nContent-Length: 1\r\n"+more+"\r\nx")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "served" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
		return resp
	}
	if resp := ask(""); resp.Close {
		t.Error("the client is sent away before kas stops")
	}
	l.stop()
	select {
	case <-l.proxy.Closed():
		t.Error("closed within the grace period")
	default:
	}
	want(t, l, func() bool {
		resp := ask("")
		if !resp.Close {
			return false
		}
		_, err := r.ReadByte()
		return err == io.EOF
	})
	_ = conn.Close()
	if got := l.do("GET", "/", "Authorization", ciBearer); got.StatusCode != 200 || !got.Close {
		t.Errorf("a new connection: %d, close %v", got.StatusCode, got.Close)
	}
}

// A watch that breaks ends as at an API server that stops; an answer that has an end of its own must not look complete.
func TestServe_BrokenWatchesEndCleanly(t *testing.T) {
	for query, clean := range map[string]bool{"?watch=true": true, "?watch=1&x=y": true, "?watch=false": false, "": false} {
		for _, cause := range []string{"kas stops", "the agent is lost"} {
			t.Run(cause+query, func(t *testing.T) { breakAnswer(t, query, cause == "kas stops", clean) })
		}
	}
}

func breakAnswer(t *testing.T, query string, byKas, clean bool) {
	lose := make(chan struct{})
	l := newLine(t, func(a *agenttest.Agent) error {
		if _, err := a.Request(); err != nil {
			return err
		}
		if err := a.Respond(200); err != nil {
			return err
		}
		if err := a.Data("event\n"); err != nil {
			return err
		}
		select {
		case <-a.Ctx.Done():
			return a.Ctx.Err()
		case <-lose:
			return agentLost{}
		}
	})
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "GET /k8s-proxy/pods"+query+" HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(resp.Body)
	if line, err := body.ReadString('\n'); line != "event\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	if byKas {
		l.stop()
	} else {
		close(lose)
	}
	rest, err := io.ReadAll(body)
	if len(rest) != 0 || clean != (err == nil) || err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("%q, %v; want a clean end: %v", rest, err, clean)
	}
	_ = conn.Close()
	l.stop()
	l.stopped(t)
	select {
	case <-l.proxy.Closed():
	default:
		t.Error("not closed")
	}
	for _, line := range l.logs.FilterMessage("Kubernetes API request").All() {
		if line.ContextMap()["error"] == nil {
			t.Errorf("the log says nothing: %v", line.ContextMap())
		}
	}
}
