package k8sproxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/gitlabapi"
	"gitlab.com/agentk/agentk/internal/httpgrpc/agenttest"
	"gitlab.com/agentk/agentk/internal/k8sproxy"
)

// stopped waits for Serve to return.
func (l *line) stopped(t *testing.T) {
	t.Helper()
	select {
	case err := <-l.served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the server does not stop")
	}
}

func TestServe_CutsWatchAndUpgradeAfterGrace(t *testing.T) {
	watching := make(chan struct{})
	l := newLine(t, func(a *agenttest.Agent) error {
		h, err := a.Request()
		if err != nil {
			return err
		}
		if h.GetRequest().GetUrlPath() == "/watch" {
			if err := a.Respond(200); err != nil {
				return err
			}
			close(watching)
		} else {
			if err := a.Respond(101, "Upgrade", "SPDY/3.1"); err != nil {
				return err
			}
			if err := a.Trailer(); err != nil {
				return err
			}
		}
		<-a.Ctx.Done()
		return a.Ctx.Err()
	})
	open := func(head string) (net.Conn, io.Reader) {
		conn, r := l.dial()
		_, _ = io.WriteString(conn, head+" HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\nConnection: Upgrade\r\n")
		if strings.Contains(head, "exec") {
			_, _ = io.WriteString(conn, "Upgrade: SPDY/3.1\r\n")
		}
		_, _ = io.WriteString(conn, "\r\n")
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		return conn, r
	}
	_, watch := open("GET /k8s-proxy/watch")
	_, exec := open("GET /k8s-proxy/exec")
	<-watching
	if n := upgrades(t, l); n != 1 {
		t.Errorf("%v upgrades", n)
	}
	l.stop()
	for _, r := range []io.Reader{watch, exec} {
		if _, err := io.ReadAll(r); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Error(err)
		}
	}
	l.stopped(t)
	if n := upgrades(t, l); n != 0 {
		t.Errorf("%v upgrades", n)
	}
	for _, line := range l.logs.FilterMessage("Kubernetes API request").All() {
		if line.ContextMap()["hop"] == "agent" {
			t.Errorf("the agent is blamed: %v", line.ContextMap())
		}
	}
}

func upgrades(t *testing.T, l *line) float64 {
	t.Helper()
	families, err := l.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "kas_proxy_upgrades_active" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatal("no metric")
	return 0
}

// A request in progress ends in order within the grace period.
func TestServe_Drains(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	l := newLine(t, func(a *agenttest.Agent) error {
		if _, _, err := a.Whole(); err != nil {
			return err
		}
		close(asked)
		<-release
		return a.Answer(200, "in time")
	}, func(c *k8sproxy.Config) { c.ListenGracePeriod, c.ShutdownGracePeriod = time.Millisecond, time.Minute })
	conn, r := l.dial()
	_, _ = io.WriteString(conn, "GET /k8s-proxy/ HTTP/1.1\r\nHost: x\r\nAuthorization: "+ciBearer+"\r\n\r\n")
	<-asked
	l.stop()
	want(t, l, func() bool {
		c, err := net.Dial("tcp", l.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "in time" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	l.stopped(t)
}

func TestServe_ListenerFails(t *testing.T) {
	l := newLine(t, nil)
	l.stop()
	l.stopped(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	p, err := k8sproxy.New(k8sproxy.Config{Log: zap.NewNop(), Registerer: prometheus.NewRegistry(), Opener: l, Jobs: l.jobs})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}

// A change at the backend takes effect at once, not when the cache has aged.
func TestServe_ChangedEmptiesCache(t *testing.T) {
	changes := make(chan chan struct{}, 1)
	l := newLine(t, (&seen{}).record, func(c *k8sproxy.Config) {
		c.Changed = func() <-chan struct{} {
			ch := make(chan struct{})
			changes <- ch
			return ch
		}
	})
	changed := <-changes
	if got := l.do("GET", "/", "Authorization", ciBearer); got.StatusCode != 200 {
		t.Fatalf("%v", got.Response)
	}
	l.jobs.set(func(context.Context, string) (*gitlabapi.AllowedAgentsForJob, error) {
		a := allowed(nil)
		a.AllowedAgents = nil
		return a, nil
	})
	if got := l.do("GET", "/", "Authorization", ciBearer); got.StatusCode != 200 {
		t.Fatalf("not cached: %v", got.Response)
	}
	close(changed)
	want(t, l, func() bool { return l.do("GET", "/", "Authorization", ciBearer).StatusCode == 403 })
}

func TestNew_Refuses(t *testing.T) {
	l := newLine(t, nil)
	good := func() k8sproxy.Config {
		return k8sproxy.Config{Log: zap.NewNop(), Registerer: prometheus.NewRegistry(), Opener: l, Jobs: l.jobs, URLPathPrefix: "/"}
	}
	for name, edit := range map[string]func(*k8sproxy.Config){
		"no log":             func(c *k8sproxy.Config) { c.Log = nil },
		"no opener":          func(c *k8sproxy.Config) { c.Opener = nil },
		"no jobs":            func(c *k8sproxy.Config) { c.Jobs = nil },
		"no registerer":      func(c *k8sproxy.Config) { c.Registerer = nil },
		"negative TTL":       func(c *k8sproxy.Config) { c.AllowedAgentCacheTTL = -1 },
		"relative prefix":    func(c *k8sproxy.Config) { c.URLPathPrefix = "k8s-proxy/" },
		"metrics registered": func(c *k8sproxy.Config) { c.Registerer = l.reg },
	} {
		c := good()
		edit(&c)
		if _, err := k8sproxy.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := good()
	if _, err := k8sproxy.New(c); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(l.reg); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
