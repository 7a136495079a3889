package agent

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"gitlab.com/agentk/agentk/internal/gitops/agent/child"
	"gitlab.com/agentk/agentk/internal/kuberest"
	"gitlab.com/agentk/agentk/internal/leader"
	"gitlab.com/agentk/agentk/test/fakeengine"
)

// connection is a client whose requests can be made to fail.
func connection(t *testing.T, through func(http.RoundTripper) http.RoundTripper) rest.Interface {
	t.Helper()
	cfg := cluster.RESTConfig()
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{TLSClientConfig: tls}
	t.Cleanup(base.CloseIdleConnections)
	client, err := kuberest.New(cfg, &http.Client{Transport: through(transport.NewBearerAuthRoundTripper(cfg.BearerToken, base))})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// elected makes a module take part in a real election. Who leads stops when it has not reached the API server for the deadline,
// three seconds before another one may lead.
func elected(t *testing.T, lease, identity string, deadline time.Duration, through func(http.RoundTripper) http.RoundTripper) func(*Config) {
	return func(c *Config) {
		client := connection(t, through)
		c.Elect = func(int64) (Elector, error) {
			return leader.New(leader.Config{
				Client: client, Namespace: "default", Name: lease, Identity: identity,
				Duration: deadline + 3*time.Second, RenewDeadline: deadline, Retry: 50 * time.Millisecond,
				Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
			})
		}
	}
}

// stubborn makes the engine stay when it is told to end.
func stubborn(c *Config) {
	c.timing.child.stop = 200 * time.Millisecond
	c.Access = func() (child.Access, error) {
		return child.Access{Environment: []string{fakeengine.Stubborn + "=1"}}, nil
	}
}

func asItIs(r http.RoundTripper) http.RoundTripper { return r }

// whoLeads waits until one of two has an engine, and returns it and the other.
func whoLeads(t *testing.T, a, b *bed) (leads, waits *bed) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if len(a.lines("fake: setup", "")) > 0 {
			return a, b
		}
		if len(b.lines("fake: setup", "")) > 0 {
			return b, a
		}
	}
	t.Fatal("nobody leads")
	return nil, nil
}

// Of two pods one synchronises. When GitOps is taken out of its configuration, or it ends, the other does.
func TestLeader_HandOver(t *testing.T) {
	k, client := newKas(t)
	k.push("p", "c1", files{"a.yaml": "x"})
	one := startWith(t, k, client, elected(t, "handover", "one", time.Hour, asItIs))
	two := startWith(t, k, client, elected(t, "handover", "two", time.Hour, asItIs))
	one.configure(projects("p"))
	two.configure(projects("p"))
	first, second := whoLeads(t, one, two)
	first.wait(1, "Objects synchronized", "p")
	if len(second.lines("fake: setup", "")) > 0 {
		t.Error("two engines run")
	}
	pid := first.wait(1, "fake: setup", "")["pid"].(string)
	first.configure(nil)
	second.wait(1, "Objects synchronized", "p")
	gone(t, pid)
	first.configure(projects("p"))
	pid = second.wait(1, "fake: setup", "")["pid"].(string)
	second.stop()
	gone(t, pid)
	first.wait(2, "Objects synchronized", "p")
}

// cutter fails requests once it is cut.
type cutter struct {
	http.RoundTripper
	cut chan struct{}
}

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-c.cut:
		return nil, context.DeadlineExceeded
	default:
		return c.RoundTripper.RoundTrip(r)
	}
}

// A pod that loses the Lease has no engine any more before another pod may start one, even if its engine would rather stay.
func TestLeader_LeaseLost(t *testing.T) {
	k, client := newKas(t)
	k.push("p", "c1", files{"a.yaml": fakeengine.Linger})
	c := &cutter{cut: make(chan struct{})}
	first := startWith(t, k, client, elected(t, "lost", "one", 2*time.Second, func(r http.RoundTripper) http.RoundTripper {
		c.RoundTripper = r
		return c
	}), stubborn)
	first.configure(projects("p"))
	pid := first.wait(1, "fake: setup", "")["pid"].(string)
	second := startWith(t, k, client, elected(t, "lost", "two", 2*time.Second, asItIs))
	second.configure(projects("p"))
	close(c.cut)
	second.wait(1, "fake: setup", "")
	if alive(pid) {
		t.Error("two engines run")
	}
}
