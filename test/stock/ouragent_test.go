package stock

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/listen"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

// clusterToken is what the agent itself is to its cluster.
const clusterToken = "cluster-token"

// seen is a request as the cluster got it.
type seen struct {
	*http.Request
	body []byte
}

// cluster is an API server that answers what is asked of it with a little JSON, or with the body it got.
type cluster struct {
	*httptest.Server
	requests chan seen
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{requests: make(chan seen, 1000)}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		c.requests <- seen{r, body}
		w.Header().Set("Audit-Id", "a1")
		switch r.URL.Path {
		case "/refused":
			http.Error(w, "no upgrade here", http.StatusForbidden)
		case "/upgrade":
			converse(w)
		case "/echo":
			_, _ = w.Write(body)
		default:
			_, _ = io.WriteString(w, `{"major":"1","minor":"36"}`)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// converse accepts an upgrade, says hello, and repeats what it hears until that ends.
func converse(w http.ResponseWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello")
	_, _ = io.Copy(conn, rw)
}

// request waits for a request that is not the agent's own.
func (c *cluster) request(t *testing.T) seen {
	t.Helper()
	for {
		select {
		case r := <-c.requests:
			if !strings.HasPrefix(r.UserAgent(), "gitlab-agent/") {
				return r
			}
		case <-time.After(patience):
			t.Fatal("no request reaches the cluster")
		}
	}
}

// ourAgent is an agent of ours in this process.
type ourAgent struct {
	cluster *cluster
	log     *telemetry.Log
	stop    context.CancelFunc
	ended   chan error
	http    *http.Client

	mu  sync.Mutex // guards out
	out bytes.Buffer
	t   *testing.T
}

// Write takes the log.
func (a *ourAgent) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, _ = a.t.Output().Write(p)
	return a.out.Write(p)
}

func (a *ourAgent) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

func startAgent(t *testing.T, address string) *ourAgent {
	t.Helper()
	a := &ourAgent{cluster: startCluster(t), ended: make(chan error, 1), t: t}
	socket := filepath.Join(t.TempDir(), "o.sock")
	a.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	var err error
	a.log, err = telemetry.NewLog(telemetry.LogConfig{Output: a, Level: zapcore.InfoLevel, GRPCLevel: zapcore.ErrorLevel})
	if err != nil {
		t.Fatal(err)
	}
	cfg := agentk.Config{
		Kas: agentk.Kas{Address: address, Token: func() string { return agentToken }},
		REST: &rest.Config{
			Host: a.cluster.URL, BearerToken: clusterToken, TLSClientConfig: rest.TLSClientConfig{
				CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cluster.Certificate().Raw}),
			},
		},
		Pod:           agentk.Pod{Namespace: "gitlab-agent", Name: "agentk-lab-1", Telemetry: map[string]string{"installation_method": "helm"}},
		Observability: listen.Config{Network: "unix", Address: socket},
		MaxStreams:    100,
		GracePeriod:   100 * time.Millisecond,
	}
	var ctx context.Context
	ctx, a.stop = context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.ended <- agentk.Run(ctx, cfg, a.log)
	}()
	t.Cleanup(func() {
		a.stop()
		<-done
		if strings.Contains(a.said(), agentToken) {
			t.Error("the log has the agent's token")
		}
	})
	return a
}

// metric says whether the agent's metrics have a line.
func (a *ourAgent) metric(t *testing.T, line string) bool {
	t.Helper()
	_, r, err := get(t.Context(), a.http, "http://agentk/metrics", "")
	return err == nil && strings.Contains(r.body, "\n"+line+"\n")
}
