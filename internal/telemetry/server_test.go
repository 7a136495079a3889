package telemetry

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// start runs a server and returns its base URL. The test's end stops it and waits.
func start(t *testing.T, cfg ServerConfig) string {
	t.Helper()
	cfg.Product, cfg.Log = "gitlab-kas/test", zap.NewNop()
	if cfg.Registry == nil {
		cfg.Registry = NewRegistry(Kas)
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return "http://" + ln.Addr().String()
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func TestServer_Metrics(t *testing.T) {
	base := start(t, ServerConfig{})
	get(t, base+"/metrics")
	code, body, header := get(t, base+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("code %d: %s", code, body)
	}
	for _, want := range []string{
		"gitlab_build_info{built=", "kas_build_info{", "go_goroutines ", "process_start_time_seconds ",
		`promhttp_metric_handler_requests_total{code="200"} 1`, "promhttp_metric_handler_requests_in_flight 1",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if got := header.Get("Server"); got != "gitlab-kas/test" {
		t.Errorf("Server: %q", got)
	}
}

func TestRegistry_Agentk(t *testing.T) {
	families, err := NewRegistry(Agentk).Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		found = found || f.GetName() == "agentk_build_info"
		if f.GetName() == "gitlab_build_info" {
			t.Error("gitlab_build_info on the agent")
		}
	}
	if !found {
		t.Error("no agentk_build_info")
	}
}

func TestServer_Probes(t *testing.T) {
	var ready, live Probes
	toggle := ready.Toggle("agentServer")
	var broken error
	ready.Add("kubernetesApi", func(context.Context) error { return broken })
	base := start(t, ServerConfig{Readiness: &ready, Liveness: &live})
	for _, path := range []string{"/readiness", "/readyz"} {
		if code, body, _ := get(t, base+path); code != http.StatusInternalServerError || body != "agentServer: not ready\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	for _, path := range []string{"/liveness", "/livez"} {
		if code, body, _ := get(t, base+path); code != http.StatusOK || body != "" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	toggle.Set(true)
	if code, body, _ := get(t, base+"/readiness"); code != http.StatusOK || body != "" {
		t.Errorf("ready: %d %q", code, body)
	}
	broken = errors.New("no answer")
	if code, body, _ := get(t, base+"/readiness"); code != http.StatusInternalServerError || body != "kubernetesApi: no answer\n" {
		t.Errorf("broken: %d %q", code, body)
	}
}

// The paths of the configuration come before the names that are always there.
func TestServer_ProbesAtTheirOtherNames(t *testing.T) {
	var ready Probes
	ready.Toggle("agentServer")
	for _, tt := range []struct {
		cfg  ServerConfig
		want map[string]int
	}{
		{ServerConfig{LivenessPath: "/livez", ReadinessPath: "/readyz"}, map[string]int{"/livez": 200, "/readyz": 500, "/liveness": 404, "/readiness": 404}},
		{ServerConfig{ReadinessPath: "/livez"}, map[string]int{"/livez": 500, "/readyz": 500, "/liveness": 200}},
		{ServerConfig{MetricsPath: "/readyz"}, map[string]int{"/livez": 200, "/readyz": 200, "/readiness": 500}},
	} {
		tt.cfg.Readiness = &ready
		base := start(t, tt.cfg)
		for path, want := range tt.want {
			if code, _, _ := get(t, base+path); code != want {
				t.Errorf("%+v: %s answers %d, want %d", tt.cfg, path, code, want)
			}
		}
	}
}

func TestServer_ProfileOutlivesReadTimeout(t *testing.T) {
	base := start(t, ServerConfig{})
	began := time.Now()
	code, body, _ := get(t, base+"/debug/pprof/trace?seconds=1.3")
	if took := time.Since(began); code != http.StatusOK || len(body) == 0 || took < 1300*time.Millisecond {
		t.Errorf("code %d, %d bytes after %v", code, len(body), took)
	}
	if code, _, _ = get(t, base+"/debug/pprof/profile?seconds=100000"); code != http.StatusBadRequest {
		t.Errorf("endless profile: %d", code)
	}
	if code, _, _ = get(t, base+"/debug/pprof/"); code != http.StatusOK {
		t.Errorf("index: %d", code)
	}
	if code, _, _ = get(t, base+"/debug/pprof/goroutine"); code != http.StatusOK {
		t.Errorf("goroutine: %d", code)
	}
	if code, body, _ = get(t, base+"/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("cmdline: %d %s", code, body)
	}
}

func TestServer_Refusals(t *testing.T) {
	base := start(t, ServerConfig{MetricsPath: "/m"})
	for _, path := range []string{"/", "/metrics", "/nothing"} {
		if code, _, _ := get(t, base+path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	resp, err := http.Post(base+"/m", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err = resp.Body.Close(); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d %v", resp.StatusCode, err)
	}
	for _, cfg := range []ServerConfig{{MetricsPath: "metrics"}, {MetricsPath: "/x", LivenessPath: "/x"}} {
		cfg.Registry, cfg.Log = NewRegistry(Kas), zap.NewNop()
		if _, err := NewServer(cfg); err == nil {
			t.Errorf("%+v accepted", cfg)
		}
	}
}

func TestServer_ListenerFails(t *testing.T) {
	s, err := NewServer(ServerConfig{Registry: NewRegistry(Agentk), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err = ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err = s.Run(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}
