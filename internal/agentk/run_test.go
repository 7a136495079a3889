package agentk

import (
	"bytes"
	"context"
	"fmt"
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

	"gitlab.com/agentk/agentk/internal/listen"
	"gitlab.com/agentk/agentk/internal/telemetry"
)

// output is a log that can be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// running is an agent in this process.
type running struct {
	t       *testing.T
	socket  string
	out     *output
	log     *telemetry.Log
	stop    context.CancelFunc
	stopped chan error
	http    *http.Client
}

func config(t *testing.T, kas string) Config {
	t.Helper()
	cfg, _ := configWithLeases(t, kas)
	return cfg
}

// configWithLeases returns the Leases of the API server, too.
func configWithLeases(t *testing.T, kas string) (Config, *leases) {
	t.Helper()
	held := &leases{all: map[string]map[string]any{}}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/apis/coordination.k8s.io/") {
			held.ServeHTTP(w, r)
			return
		}
		switch r.URL.Path {
		case "/version":
			fmt.Fprint(w, `{"major":"1","minor":"37"}`)
		case "/watch":
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(api.Close)
	return Config{
		Kas:           Kas{Address: kas, Token: func() string { return "canary-token" }},
		REST:          &rest.Config{Host: api.URL},
		Pod:           Pod{Namespace: "ns", Name: "pod"},
		Observability: listen.Config{Network: "unix", Address: filepath.Join(t.TempDir(), "o.sock")},
		MaxStreams:    10,
		GracePeriod:   100 * time.Millisecond,
	}, held
}

func newLog(t *testing.T) (*telemetry.Log, *output) {
	t.Helper()
	out := &output{}
	log, err := telemetry.NewLog(telemetry.LogConfig{Output: out, Level: zapcore.InfoLevel, GRPCLevel: zapcore.ErrorLevel})
	if err != nil {
		t.Fatal(err)
	}
	return log, out
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{t: t, socket: cfg.Observability.Address, stop: stop, stopped: make(chan error, 1)}
	r.log, r.out = newLog(t)
	r.http = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.socket)
		},
	}}
	go func() { r.stopped <- Run(ctx, cfg, r.log) }()
	t.Cleanup(stop)
	return r
}

func (r *running) get(path string) (int, string) {
	resp, err := r.http.Get("http://agentk" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// end stops the agent and waits for it.
func (r *running) end() {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.stopped:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(time.Minute):
		r.t.Fatal("the agent does not stop")
	}
	if strings.Contains(r.out.String(), "canary-token") {
		r.t.Error("the log has the token")
	}
}

func TestRun(t *testing.T) {
	kas := startKas(t)
	r := start(t, config(t, kas.address))
	eventually(t, "readiness", func() bool { code, _ := r.get("/readiness"); return code == 200 })
	eventually(t, "registration", func() bool { return kas.registered.Load() == 1 })
	eventually(t, "the level of the configuration", func() bool { return r.log.Level.Level() == zapcore.DebugLevel })

	call := kas.get(t.Context(), t, "/version")
	body := ""
	for m := recv(t, call); m != nil; m = recv(t, call) {
		body += string(m.GetData().GetData())
	}
	call.Finish(true)
	if body != `{"major":"1","minor":"37"}` {
		t.Error(body)
	}
	_, metrics := r.get("/metrics")
	for _, want := range []string{
		"agentk_connected 1", `gitlab_kas_tunnel_connections_total{result="success"} 1`, "gitlab_kas_request_duration_seconds_count 1",
		"agentk_build_info{", "agentk_config_valid 1", "agentk_tunnels{", "grpc_client_started_total{",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	r.end()
	if kas.unregistered.Load() != 1 {
		t.Error("the agent did not unregister")
	}
	for _, want := range []string{`"msg":"Connected to gRPC server"`, kas.address, `"msg":"Observability endpoint is up"`} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("no %s in the log:\n%s", want, r.out)
		}
	}
}

// An open watch does not hold up the end for longer than the grace period.
func TestRun_StopsWithOpenWatch(t *testing.T) {
	kas := startKas(t)
	r := start(t, config(t, kas.address))
	call := kas.get(t.Context(), t, "/watch")
	if m := recv(t, call); m.GetHeader() == nil {
		t.Fatal(m)
	}
	r.end()
	if _, err := call.Recv(); err == nil {
		t.Error("the watch goes on")
	}
	call.Finish(false)
}

func TestRun_WithoutKas(t *testing.T) {
	r := start(t, config(t, "grpc://127.0.0.1:1"))
	eventually(t, "the reason in the probe", func() bool {
		code, text := r.get("/readiness")
		return code == 500 && strings.Contains(text, "kas: not connected to kas") && strings.Contains(text, "refused")
	})
	if code, _ := r.get("/liveness"); code != 200 {
		t.Error("not alive")
	}
	r.end()
}

func TestRun_CannotStart(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"address":        {func(c *Config) { c.Kas.Address = "http://x" }, "connection to kas"},
		"CA":             {func(c *Config) { c.Kas.CAFile = "/nonexistent" }, "connection to kas"},
		"listener":       {func(c *Config) { c.Observability.Address = "/nonexistent/x" }, "observability"},
		"streams":        {func(c *Config) { c.MaxStreams = 1 }, "reverse tunnel"},
		"account":        {func(c *Config) { c.ImpersonationServiceAccount = "x" }, "Kubernetes client"},
		"account, as":    {func(c *Config) { c.ImpersonationTokenFile, c.REST.Impersonate.UserName = "x", "y" }, "exclude each other"},
		"bad API server": {func(c *Config) { c.REST.Host = "https://\x7f" }, "API server address"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "grpc://127.0.0.1:1")
			tc.edit(&cfg)
			log, _ := newLog(t)
			if err := Run(t.Context(), cfg, log); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Error(err)
			}
		})
	}
}
