package server

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"

	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// auth answers the same to everybody.
type auth struct {
	agent backend.Agent
	err   error
}

func (a *auth) Agent(context.Context) (backend.Agent, error) { return a.agent, a.err }

// registry is a memory store that may be down.
type registry struct {
	*store.Memory
	err error
	ttl time.Duration
}

func (r *registry) RegisterAgent(ctx context.Context, info *agenttracker.ConnectedAgentInfo, ttl time.Duration) error {
	if r.err != nil {
		return r.err
	}
	r.ttl = ttl
	return r.Memory.RegisterAgent(ctx, info, ttl)
}

func (r *registry) UnregisterAgent(ctx context.Context, agentID, connectionID int64) error {
	if r.err != nil {
		return r.err
	}
	return r.Memory.UnregisterAgent(ctx, agentID, connectionID)
}

func (r *registry) AllAgents(ctx context.Context) ([]*agenttracker.ConnectedAgentInfo, error) {
	if r.err != nil {
		return nil, r.err
	}
	return r.Memory.AllAgents(ctx)
}

// fixture is a Server behind a real gRPC connection.
type fixture struct {
	left     atomic.Int64 // the pod that left last
	auth     *auth
	registry *registry
	metrics  *prometheus.Registry
	client   agentregistrar.AgentRegistrarClient
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		auth:     &auth{agent: backend.Agent{ID: 7, Name: "demo", Project: backend.Project{ID: 9, Path: "group/agents"}}},
		registry: &registry{Memory: store.NewMemory(store.MemoryConfig{})},
		metrics:  prometheus.NewPedanticRegistry(),
	}
	s, err := New(Config{
		Auth: f.auth, Registry: f.registry, TTL: time.Minute, Log: zap.NewNop(), Registerer: f.metrics,
		Leave: func(agentID, podID int64) { f.left.Store(1000*agentID + podID) },
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	agentregistrar.RegisterAgentRegistrarServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///kas",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-done
	})
	f.client = agentregistrar.NewAgentRegistrarClient(conn)
	return f
}

func (f *fixture) register(t *testing.T, podID int64, version string) {
	t.Helper()
	_, err := f.client.Register(t.Context(), &agentregistrar.RegisterRequest{AgentMeta: &entity.AgentMeta{Version: version}, PodId: podID})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRegister_IsWrittenDown(t *testing.T) {
	f := newFixture(t)
	meta := &entity.AgentMeta{
		Version: "v18.1.0", CommitId: "0123abcd", PodNamespace: "ns", PodName: "pod",
		KubernetesVersion:  &entity.KubernetesVersion{Major: "1", Minor: "36"},
		ExtraTelemetryData: map[string]string{"installation_method": "helm"},
	}
	before := time.Now()
	for range 2 {
		if _, err := f.client.Register(t.Context(), &agentregistrar.RegisterRequest{AgentMeta: meta, PodId: 42}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.registry.AgentsByID(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	want := []*agenttracker.ConnectedAgentInfo{{AgentMeta: meta, ConnectionId: 42, AgentId: 7, ProjectId: 9}}
	ignore := protocmp.IgnoreFields(&agenttracker.ConnectedAgentInfo{}, "connected_at")
	if diff := cmp.Diff(want, got, protocmp.Transform(), ignore); diff != "" {
		t.Fatal(diff)
	}
	if at := got[0].ConnectedAt.AsTime(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("connected at %v", at)
	}
	if f.registry.ttl != 7*time.Minute {
		t.Errorf("a registration lasts %v, which is too short for one every five minutes", f.registry.ttl)
	}
}

// Fields of other versions are passed on to GitLab, which may know them, as long as they are few.
func TestRegister_UnknownFields(t *testing.T) {
	few := append([]byte{0xa2, 0x7d, 0x04}, "four"...)                    // field 2004
	much := append([]byte{0xa2, 0x7d, 0x80, 0x10}, make([]byte, 2048)...) // 2048 bytes
	for name, test := range map[string]struct{ sent, want []byte }{"few": {few, few}, "much": {much, nil}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			meta := &entity.AgentMeta{Version: "v18.1.0", KubernetesVersion: &entity.KubernetesVersion{Major: "1"}}
			meta.ProtoReflect().SetUnknown(test.sent)
			meta.KubernetesVersion.ProtoReflect().SetUnknown(test.sent)
			if _, err := f.client.Register(t.Context(), &agentregistrar.RegisterRequest{AgentMeta: meta, PodId: 42}); err != nil {
				t.Fatal(err)
			}
			meta.ProtoReflect().SetUnknown(test.want)
			meta.KubernetesVersion.ProtoReflect().SetUnknown(test.want)
			got, err := f.registry.AgentsByID(t.Context(), 7)
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			if diff := cmp.Diff(meta, got[0].AgentMeta, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnregister_IsForgotten(t *testing.T) {
	f := newFixture(t)
	f.register(t, 42, "v1")
	f.register(t, 43, "v1")
	for range 2 {
		if _, err := f.client.Unregister(t.Context(), &agentregistrar.UnregisterRequest{PodId: 42}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.registry.AgentsByID(t.Context(), 7)
	if err != nil || len(got) != 1 || got[0].ConnectionId != 43 {
		t.Errorf("left: %v %v", got, err)
	}
	if left := f.left.Load(); left != 7042 {
		t.Errorf("pod %d left, want 42 of agent 7", left)
	}
}

func TestRegister_Refused(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	many := map[string]string{}
	for i := range maxTelemetry + 1 {
		many[strings.Repeat("k", i+1)] = ""
	}
	tests := []struct {
		name  string
		meta  *entity.AgentMeta
		auth  error
		store error
		code  codes.Code
		text  string
	}{
		{"long version", &entity.AgentMeta{Version: long}, nil, nil, codes.InvalidArgument, "agent_meta.version"},
		{"long pod name", &entity.AgentMeta{PodName: long}, nil, nil, codes.InvalidArgument, "agent_meta.pod_name"},
		{"long platform", &entity.AgentMeta{KubernetesVersion: &entity.KubernetesVersion{Platform: long}}, nil, nil, codes.InvalidArgument, "platform"},
		{"long telemetry", &entity.AgentMeta{ExtraTelemetryData: map[string]string{"k": long}}, nil, nil, codes.InvalidArgument, "telemetry"},
		{"much telemetry", &entity.AgentMeta{ExtraTelemetryData: many}, nil, nil, codes.InvalidArgument, "telemetry"},
		{"wrong token", nil, fault.New(fault.Unauthenticated, fault.GitLab, "unauthenticated"), nil, codes.Unauthenticated, "unauthenticated"},
		{"unknown agent", nil, fault.New(fault.NotFound, fault.GitLab, "agent not found"), nil, codes.NotFound, "agent not found"},
		{"GitLab is down", nil, fault.New(fault.Unavailable, fault.GitLab, "unavailable"), nil, codes.Unavailable, "unavailable"},
		{"the store is down", nil, nil, errors.New("redis: secret details"), codes.Unavailable, "Failed to register agent"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.auth.err, f.registry.err = test.auth, test.store
			_, err := f.client.Register(t.Context(), &agentregistrar.RegisterRequest{AgentMeta: test.meta, PodId: 1})
			st := status.Convert(err)
			if st.Code() != test.code || !strings.Contains(st.Message(), test.text) || strings.Contains(st.Message(), "secret") {
				t.Errorf("got %v, want %v with %q", err, test.code, test.text)
			}
			if strings.Contains(st.Message(), long) {
				t.Error("the answer repeats the value")
			}
		})
	}
}

func TestUnregister_Refused(t *testing.T) {
	f := newFixture(t)
	f.registry.err = errors.New("down")
	_, err := f.client.Unregister(t.Context(), &agentregistrar.UnregisterRequest{PodId: 1})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if f.left.Load() != 7001 {
		t.Error("the pod gets requests while the store is down")
	}
	f.left.Store(0)
	f.auth.err = fault.New(fault.PermissionDenied, fault.GitLab, "forbidden")
	_, err = f.client.Unregister(t.Context(), &agentregistrar.UnregisterRequest{PodId: 1})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

func TestMetrics_AgentsPerVersion(t *testing.T) {
	f := newFixture(t)
	f.register(t, 1, "v18.1.0")
	f.register(t, 2, "v18.1.0")
	f.register(t, 3, "v17.0.0")
	f.register(t, 4, "\"}\nmade up")
	f.auth.agent.ID = 8
	f.register(t, 1, "")
	f.auth.agent.ID = 9
	for i := range int64(maxVersions + 5) {
		f.register(t, i, "v1."+strings.Repeat("1", int(i)+1))
	}
	want := `
# HELP connected_agents_count Agents with at least one registered connection
# TYPE connected_agents_count gauge
connected_agents_count 3
`
	if err := testutil.GatherAndCompare(f.metrics, strings.NewReader(want), "connected_agents_count"); err != nil {
		t.Error(err)
	}
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	lines := map[string]int{}
	for _, family := range families {
		if family.GetName() != "kas_agents_connected" {
			continue
		}
		for _, m := range family.GetMetric() {
			agent, version := m.GetLabel()[0].GetValue(), m.GetLabel()[1].GetValue()
			got[agent+" "+version] = m.GetGauge().GetValue()
			lines[agent]++
		}
	}
	for series, value := range map[string]float64{"7 v18.1.0": 2, "7 v17.0.0": 1, "7 other": 1, "8 other": 1, "9 other": 5} {
		if got[series] != value {
			t.Errorf("%s is %v, want %v", series, got[series], value)
		}
	}
	if lines["9"] != maxVersions+1 {
		t.Errorf("an agent with many versions has %d lines", lines["9"])
	}

	f.registry.err = errors.New("down")
	if n, err := testutil.GatherAndCount(f.metrics); n != 0 || err != nil {
		t.Errorf("with the store down: %d metrics, %v", n, err)
	}
}

func TestNew_Incomplete(t *testing.T) {
	r := &registry{}
	for _, cfg := range []Config{{}, {Auth: &auth{}, Registry: r}, {Auth: &auth{}, Log: zap.NewNop()}, {Registry: r, Log: zap.NewNop()}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
