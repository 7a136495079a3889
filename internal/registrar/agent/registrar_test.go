package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kas answers calls from a script, then with success, and notes when each came.
type kas struct {
	start      time.Time
	script     []error
	unregister error
	registered []time.Duration
	left       []time.Duration
	podIDs     map[int64]bool
	metas      []*entity.AgentMeta
}

func newKas(script ...error) *kas {
	return &kas{start: time.Now(), script: script, podIDs: map[int64]bool{}}
}

func (k *kas) Register(_ context.Context, req *agentregistrar.RegisterRequest, _ ...grpc.CallOption) (*agentregistrar.RegisterResponse, error) {
	k.registered = append(k.registered, time.Since(k.start))
	k.podIDs[req.PodId] = true
	k.metas = append(k.metas, req.AgentMeta)
	if len(k.script) > 0 {
		err := k.script[0]
		k.script = k.script[1:]
		if err != nil {
			return nil, err
		}
	}
	return &agentregistrar.RegisterResponse{}, nil
}

func (k *kas) Unregister(ctx context.Context, req *agentregistrar.UnregisterRequest, _ ...grpc.CallOption) (*agentregistrar.UnregisterResponse, error) {
	k.left = append(k.left, time.Since(k.start))
	k.podIDs[req.PodId] = true
	if errors.Is(k.unregister, context.DeadlineExceeded) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &agentregistrar.UnregisterResponse{}, k.unregister
}

func meta(context.Context) *entity.AgentMeta { return &entity.AgentMeta{Version: "v1"} }

// A pod that has said that it leaves neither registers again nor says so once more.
func TestRegistrar_Leaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKas()
		r, err := New(Config{Client: k, Meta: meta, Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		if err := r.Leave(ctx); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]time.Duration{time.Minute}, k.left); diff != "" || len(k.registered) != 1 || !k.podIDs[r.PodID()] || len(k.podIDs) != 1 {
			t.Errorf("left %s, registered %v, pods %v", diff, k.registered, k.podIDs)
		}
		k.unregister = errors.New("down")
		if err := r.Leave(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}

// run runs a Registrar for some time of the test's clock and returns how long Run took to return after its end.
func run(t *testing.T, cfg Config, d time.Duration) time.Duration {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	start := time.Now()
	if err := r.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	return time.Since(start) - d
}

func TestRegistrar_EveryFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKas()
		run(t, Config{Client: k, Meta: meta, Log: zap.NewNop()}, 12*time.Minute)
		if diff := cmp.Diff([]time.Duration{0, 5 * time.Minute, 10 * time.Minute}, k.registered); diff != "" {
			t.Errorf("registered: %s", diff)
		}
		if diff := cmp.Diff([]time.Duration{12 * time.Minute}, k.left); diff != "" {
			t.Errorf("unregistered: %s", diff)
		}
		for id := range k.podIDs {
			if id <= 0 {
				t.Errorf("pod id %d is not positive", id)
			}
		}
		if len(k.podIDs) != 1 {
			t.Errorf("pod ids %v, want one", k.podIDs)
		}
		if k.metas[0].GetVersion() != "v1" {
			t.Errorf("meta %v", k.metas[0])
		}
	})
}

func TestRegistrar_FailuresBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := status.Error(codes.Unavailable, "no connection")
		k := newKas(down, down, down, nil)
		core, logs := observer.New(zapcore.DebugLevel)
		run(t, Config{Client: k, Meta: meta, Log: zap.New(core)}, 4*time.Minute)
		if len(k.registered) != 4 {
			t.Fatalf("registered at %v, want four attempts", k.registered)
		}
		for i, least := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
			if gap := k.registered[i+1] - k.registered[i]; gap < least || gap >= 2*least {
				t.Errorf("gap %d is %v, want [%v, %v)", i, gap, least, 2*least)
			}
		}
		if n := logs.FilterMessage("Agent was not registered").Len(); n != 3 {
			t.Errorf("%d failures in the log, want 3", n)
		}
	})
}

func TestRegistrar_ReconnectedCutsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reconnected := make(chan struct{}, 1)
		reconnected <- struct{}{} // from the connection of the first call
		k := newKas()
		time.AfterFunc(90*time.Second, func() { reconnected <- struct{}{} })
		run(t, Config{Client: k, Meta: meta, Reconnected: reconnected, Log: zap.NewNop()}, 3*time.Minute)
		if diff := cmp.Diff([]time.Duration{0, 90 * time.Second}, k.registered); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRegistrar_Goodbye(t *testing.T) {
	tests := []struct {
		name     string
		answer   error
		within   time.Duration
		wantLogs int
	}{
		{"accepted", nil, 0, 0},
		{"unknown to an old server", status.Error(codes.Unimplemented, "unknown method"), 0, 0},
		{"refused", status.Error(codes.Unavailable, "no store"), 0, 1},
		{"never answered", context.DeadlineExceeded, goodbye, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKas()
				k.unregister = test.answer
				core, logs := observer.New(zapcore.DebugLevel)
				took := run(t, Config{Client: k, Meta: meta, Log: zap.New(core)}, time.Minute)
				if took != test.within || len(k.left) != 1 || logs.Len() != test.wantLogs {
					t.Errorf("took %v, %d calls, log %v", took, len(k.left), logs.All())
				}
			})
		})
	}
}

func TestRegistrar_NeverRegisteredNeedsNoGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKas(status.Error(codes.Unauthenticated, "unauthenticated"))
		run(t, Config{Client: k, Meta: meta, Log: zap.NewNop()}, 5*time.Second)
		if len(k.left) != 0 {
			t.Errorf("unregistered at %v", k.left)
		}
	})
}

func TestNew_Incomplete(t *testing.T) {
	for _, cfg := range []Config{{}, {Client: newKas(), Log: zap.NewNop()}, {Client: newKas(), Meta: meta}, {Meta: meta, Log: zap.NewNop()}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestTelemetry(t *testing.T) {
	got := Telemetry([]string{
		"GITLAB_AGENT_TELEMETRY_INSTALLATION_METHOD=helm",
		"GITLAB_AGENT_TELEMETRY_HELM_CHART_VERSION=2.1=x",
		"GITLAB_AGENT_TELEMETRY_=nothing",
		"GITLAB_AGENT_TELEMETRY_LONG=" + strings.Repeat("x", maxText+1),
		"AGENTK_TOKEN=secret",
		"garbage",
	})
	want := map[string]string{"installation_method": "helm", "helm_chart_version": "2.1=x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := Telemetry([]string{"HOME=/"}); got != nil {
		t.Errorf("nothing became %v", got)
	}
}

func TestPod_VersionOfTheCluster(t *testing.T) {
	answer := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" || answer != http.StatusOK {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(`{"major":"1","minor":"36","gitVersion":"v1.36.3","platform":"linux/amd64"}`))
	}))
	defer server.Close()
	client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	pod := NewPod(&entity.AgentMeta{Version: "v1", PodName: "p"}, KubernetesVersion(client.RESTClient()), zap.NewNop())
	want := &entity.AgentMeta{
		Version: "v1", PodName: "p",
		KubernetesVersion: &entity.KubernetesVersion{Major: "1", Minor: "36", GitVersion: "v1.36.3", Platform: "linux/amd64"},
	}
	for _, answer = range []int{http.StatusOK, http.StatusForbidden} {
		if diff := cmp.Diff(want, pod.Meta(t.Context()), protocmp.Transform()); diff != "" {
			t.Errorf("answer %d: %s", answer, diff)
		}
	}
	client.RESTClient().(*rest.RESTClient).Client.CloseIdleConnections()
}
