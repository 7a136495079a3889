package agentk

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/agentcfg"
	"gitlab.com/agentk/agentk/api/agentconfiguration"
	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/gitops"
	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const agentID = 7

// fakeKas is the little of kas that an agent needs.
type fakeKas struct {
	agentregistrar.UnimplementedAgentRegistrarServer
	agentconfiguration.UnimplementedAgentConfigurationServer
	reversetunnel.UnimplementedReverseTunnelServer
	gitops.UnimplementedGitopsServer

	address      string
	registry     *tunnel.Registry
	registered   atomic.Int64
	unregistered atomic.Int64
	level        agentcfg.LogLevelEnum
	gitops       *agentcfg.GitopsCF
}

func startKas(t *testing.T) *fakeKas {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeKas{
		address:  "grpc://" + ln.Addr().String(),
		registry: tunnel.NewRegistry(tunnel.RegistryConfig{Registerer: prometheus.NewRegistry()}),
		level:    agentcfg.LogLevelEnum_debug,
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec{}))
	agentregistrar.RegisterAgentRegistrarServer(s, k)
	agentconfiguration.RegisterAgentConfigurationServer(s, k)
	reversetunnel.RegisterReverseTunnelServer(s, k)
	gitops.RegisterGitopsServer(s, k)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return k
}

func (k *fakeKas) Register(context.Context, *agentregistrar.RegisterRequest) (*agentregistrar.RegisterResponse, error) {
	k.registered.Add(1)
	return &agentregistrar.RegisterResponse{}, nil
}

func (k *fakeKas) Unregister(_ context.Context, req *agentregistrar.UnregisterRequest) (*agentregistrar.UnregisterResponse, error) {
	k.unregistered.Add(1)
	k.registry.Leave(agentID, req.PodId)
	return &agentregistrar.UnregisterResponse{}, nil
}

func (k *fakeKas) GetConfiguration(_ *agentconfiguration.ConfigurationRequest, s agentconfiguration.AgentConfiguration_GetConfigurationServer) error {
	err := s.Send(&agentconfiguration.ConfigurationResponse{CommitId: "c1", Configuration: &agentcfg.AgentConfiguration{
		AgentId: agentID, Gitops: k.gitops, Observability: &agentcfg.ObservabilityCF{Logging: &agentcfg.LoggingCF{Level: k.level}},
	}})
	if err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (k *fakeKas) Connect(s reversetunnel.ReverseTunnel_ConnectServer) error {
	return k.registry.Connect(s, agentID, context.Background(), context.Background())
}

// get sends a GET request down a tunnel and returns the tunnel.
func (k *fakeKas) get(ctx context.Context, t *testing.T, path string) *tunnel.Tunnel {
	t.Helper()
	call, err := k.registry.Find(ctx, agentID, "gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest", httpgrpc.ExtEncodedPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := call.Start("/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest", nil); err != nil {
		t.Fatal(err)
	}
	header, err := frame.Marshal(&grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{Method: "GET", UrlPath: path}, ContentLength: proto.Int64(0),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []mem.BufferSlice{header, frame.Empty(frame.HTTPTrailer)} {
		if err := call.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := call.CloseSend(); err != nil {
		t.Fatal(err)
	}
	return call
}

// recv reads one response frame; nil at the end of the call.
func recv(t *testing.T, call *tunnel.Tunnel) *grpctool.HttpResponse {
	t.Helper()
	raw, err := call.Recv()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Free()
	m := &grpctool.HttpResponse{}
	if err := frame.Unmarshal(raw, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
	}
}
