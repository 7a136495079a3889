package kasdial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
)

var noLimits = keepalive.ServerParameters{}

func TestClient_AllSchemes(t *testing.T) {
	serverTLS, caFile := privateCA(t, "kas.test")
	plain, secure := startKas(t, "", nil, noLimits), startKas(t, "", serverTLS, noLimits)
	for _, scheme := range []string{"grpc", "grpcs", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			k := plain
			if strings.HasSuffix(scheme, "s") && scheme != "ws" {
				k = secure
			}
			var token atomic.Value
			token.Store("first")
			c, _ := connect(t, scheme+"://"+k.addr+"/", func(cfg *Config) {
				cfg.TokenSource = func() string { return token.Load().(string) }
				cfg.CAFile, cfg.ServerName = caFile, "kas.test"
				cfg.Header = http.Header{"X-Extra": {"a", "b"}}
			})
			for _, want := range []string{"first", "second"} {
				token.Store(want)
				if err := call(t, c); err != nil {
					t.Fatal(err)
				}
				md := <-k.seen
				if got := md.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+want {
					t.Errorf("authorization %q", got)
				}
				if got := md.Get("user-agent"); len(got) != 1 || !strings.HasPrefix(got[0], "gitlab-agent/v1/test grpc-go/") {
					t.Errorf("user-agent %q", got)
				}
				if got := md.Get("grpc-encoding"); len(got) > 0 {
					t.Errorf("grpc-encoding %q", got)
				}
				// Extra headers are metadata where there is no handshake.
				wantExtra := ""
				if strings.HasPrefix(scheme, "grpc") {
					wantExtra = "a,b"
				}
				if got := strings.Join(md.Get("x-extra"), ";"); got != wantExtra {
					t.Errorf("x-extra %q, want %q", got, wantExtra)
				}
				if scheme == "ws" {
					if got := md.Get(":authority"); len(got) != 1 || got[0] != "ws:%2F%2F"+k.addr+"%2F" {
						t.Errorf("authority %q", got)
					}
				}
			}
		})
	}
}

func TestClient_CertificateNotTrusted(t *testing.T) {
	serverTLS, _ := privateCA(t, "kas.test")
	k := startKas(t, "", serverTLS, noLimits)
	for scheme, next := range map[string]time.Duration{"grpcs": baseDelay, "wss": baseDelay + afterAnswer} {
		_, told := connect(t, scheme+"://"+k.addr, func(cfg *Config) { cfg.ServerName = "kas.test" })
		eventually(t, scheme+" fails", func() bool {
			return told.count(func(e Event) bool {
				return e.Change == AttemptFailed && strings.Contains(e.Reason.Error(), "certificate signed by unknown authority") &&
					e.NextAttempt == next
			}) > 0
		})
	}
	for _, scheme := range []string{"grpcs", "wss"} {
		c, _ := connect(t, scheme+"://"+k.addr, func(cfg *Config) { cfg.InsecureSkipVerify = true })
		if err := call(t, c); err != nil {
			t.Errorf("%s without verification: %v", scheme, err)
		}
	}
}

func TestClient_ThroughProxy(t *testing.T) {
	serverTLS, caFile := privateCA(t, "kas.test")
	plain, secure := startKas(t, "", nil, noLimits), startKas(t, "", serverTLS, noLimits)
	asked := make(chan string, 100)
	proxy := connectProxy(t, asked)
	t.Setenv("HTTP_PROXY", "http://"+proxy)
	t.Setenv("HTTPS_PROXY", "http://"+proxy)
	t.Setenv("NO_PROXY", "")
	for scheme, k := range map[string]*kas{"grpc": plain, "ws": plain, "grpcs": secure, "wss": secure} {
		host := "kas.test:" + k.port() // only the proxy can resolve it
		c, _ := connect(t, scheme+"://"+host, func(cfg *Config) { cfg.CAFile = caFile })
		if err := call(t, c); err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		if got := <-asked; got != "CONNECT "+host {
			t.Errorf("%s: the proxy was asked for %q", scheme, got)
		}
	}
}

func TestClient_WrongPort(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.RedirectHandler("/x/", http.StatusMovedPermanently)}
	done := make(chan error, 1)
	go func() { done <- web.Serve(listener) }()
	defer func() { web.Close(); <-done }()
	for scheme, want := range map[string]string{"ws": "trailing slash", "grpc": "does not speak HTTP/2", "wss": "does not speak TLS"} {
		_, told := connect(t, scheme+"://"+listener.Addr().String()+"/x", nil)
		eventually(t, scheme+" says why", func() bool {
			return told.count(func(e Event) bool { return e.Change == AttemptFailed && strings.Contains(e.Reason.Error(), want) }) > 0
		})
	}
}

// kas is killed and comes back: the log tells the loss with its reason, the failed attempts and the new connection.
func TestClient_Reconnects(t *testing.T) {
	for _, scheme := range []string{"grpc", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			registry := prometheus.NewRegistry()
			k := startKas(t, "", nil, noLimits)
			c, told := connect(t, scheme+"://"+k.addr, func(cfg *Config) { cfg.Log, cfg.Registerer = zap.New(core), registry })
			if err := call(t, c); err != nil {
				t.Fatal(err)
			}
			connected := func() int { return told.count(func(e Event) bool { return e.Change == Connected }) }
			eventually(t, "connected", func() bool { return connected() == 1 })
			k.stop()
			eventually(t, "loss and failed attempt", func() bool {
				return told.count(func(e Event) bool { return e.Change == Disconnected && !e.Planned && e.Reason != nil }) == 1 &&
					told.count(func(e Event) bool { return e.Change == AttemptFailed && e.NextAttempt == baseDelay }) == 1
			})
			startKas(t, k.addr, nil, noLimits)
			eventually(t, "connected again", func() bool { return connected() == 2 })
			if err := call(t, c); err != nil {
				t.Fatal(err)
			}
			for message, level := range map[string]string{
				"Connected to gRPC server": "info", "Disconnected from gRPC server": "warn", "Cannot connect to gRPC server": "warn",
			} {
				lines := logs.FilterMessage(message).All()
				if len(lines) == 0 || lines[0].Level.String() != level || lines[0].ContextMap()["kas_address"] != scheme+"://"+k.addr {
					t.Errorf("%s: %+v", message, lines)
				}
			}
			if got := value(t, registry, "gitlab_kas_tunnel_connections_total", "success"); got != 2 {
				t.Errorf("%v successful attempts, want 2", got)
			}
			if got := value(t, registry, "gitlab_kas_tunnel_connections_total", "failure"); got < 1 {
				t.Errorf("%v failed attempts", got)
			}
			if got := value(t, registry, "gitlab_kas_request_duration_seconds", ""); got != 2 {
				t.Errorf("latency of %v requests, want 2", got)
			}
		})
	}
}

// A new connection that kas asks for is no news, and what runs on the old one goes on.
func TestClient_PlannedChange(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	k := startKas(t, "", nil, keepalive.ServerParameters{MaxConnectionAge: 500 * time.Millisecond, MaxConnectionAgeGrace: time.Minute})
	var connections atomic.Int32
	var newest atomic.Value
	c, told := connect(t, "ws://"+k.addr, func(cfg *Config) {
		cfg.Log = zap.New(core)
		cfg.OnConnection = func(local string) { newest.Store(local); connections.Add(1) }
	})
	running, err := c.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Kas/Hang", grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	first, ok := peer.FromContext(running.Context())
	if !ok || first.LocalAddr.String() != newest.Load() {
		t.Errorf("a stream on %+v, told %v", first, newest.Load())
	}
	eventually(t, "a second connection", func() bool { return connections.Load() >= 2 })
	if err := running.Context().Err(); err != nil {
		t.Errorf("what ran on the first one: %v", err)
	}
	eventually(t, "two changes", func() bool {
		return told.count(func(e Event) bool { return e.Change == Disconnected && e.Planned }) >= 2
	})
	if n := told.count(func(e Event) bool { return e.Change == Disconnected && !e.Planned || e.Change == AttemptFailed }); n > 0 {
		t.Errorf("%d events are not planned: %+v", n, told.all)
	}
	if n := logs.Filter(func(e observer.LoggedEntry) bool { return e.Level > zap.DebugLevel }).Len(); n != 1 {
		t.Errorf("%d lines above debug, want only the first connection", n)
	}
}

// The peer accepts and says nothing: the attempt ends within its time and others may follow.
func TestClient_CloseWhileConnecting(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, scheme := range []string{"grpc", "grpcs", "ws", "wss"} {
		c, _ := connect(t, scheme+"://"+listener.Addr().String(), nil)
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		c.Close()
		if took := time.Since(start); took > testWait/2 {
			t.Errorf("%s: Close took %v", scheme, took)
		}
		conn.Close()
	}
}

func TestPacer(t *testing.T) {
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	for name, test := range map[string]struct {
		attempts []error // at "a", one after the other
		min, max time.Duration
	}{
		"first attempt":     {nil, 0, 0},
		"after a loss":      {[]error{nil}, minFirstRetry, maxFirstRetry},
		"nobody listens":    {[]error{refused}, 0, 0},
		"lost and refused":  {[]error{nil, refused}, 0, 0},
		"a proxy answers":   {[]error{errors.New("expected 101 but got 502")}, afterAnswer / 2, 2 * afterAnswer},
		"no answer at all":  {[]error{os.ErrDeadlineExceeded}, afterAnswer / 2, 2 * afterAnswer},
		"answered, refused": {[]error{io.EOF, refused}, 0, 0},
		"not wanted":        {[]error{context.Canceled}, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &pacer{}
			timed := func(addr string) time.Duration {
				start := time.Now()
				if err := p.wait(t.Context(), addr); err != nil {
					t.Error(err)
				}
				return time.Since(start)
			}
			for _, err := range test.attempts {
				timed("a")
				p.ended("a", err)
			}
			if took := timed("b"); took != 0 {
				t.Errorf("%s: another address waits %v", name, took)
			}
			if took := timed("a"); took < test.min || took > test.max {
				t.Errorf("%s: the next attempt waits %v", name, took)
			}
			if took := timed("a"); took != 0 {
				t.Errorf("%s: one that followed waits %v", name, took)
			}
			p.ended("a", nil)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := p.wait(ctx, "a"); err == nil {
				t.Errorf("%s: a wait that is not wanted any more goes on", name)
			}
		})
	}
}

// value reads a counter by its label, or the count of a histogram.
func value(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			switch {
			case label == "":
				return float64(m.GetHistogram().GetSampleCount())
			case m.GetLabel()[0].GetValue() == label:
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}
