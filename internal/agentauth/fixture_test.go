package agentauth

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/fault"
)

const testWait = time.Minute

// agents is a Backend made of a map.
type agents struct {
	lookups atomic.Int64
	// gate, when set, is waited for by every look-up.
	gate chan struct{}

	mu      sync.Mutex
	ids     map[string]int64
	trouble error
	changed chan struct{}
}

func newAgents() *agents {
	return &agents{ids: map[string]int64{"good": 1, "other": 2}, changed: make(chan struct{})}
}

func (b *agents) AgentByToken(ctx context.Context, token string) (backend.Agent, error) {
	b.lookups.Add(1)
	b.mu.Lock()
	gate := b.gate
	b.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return backend.Agent{}, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trouble != nil {
		return backend.Agent{}, b.trouble
	}
	id, ok := b.ids[token]
	if !ok {
		return backend.Agent{}, fault.New(fault.Unauthenticated, fault.GitLab, "unauthenticated")
	}
	return backend.Agent{ID: id}, nil
}

func (b *agents) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// change applies f and tells everybody.
func (b *agents) change(f func(b *agents)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
	close(b.changed)
	b.changed = make(chan struct{})
}

// newAuth makes an Authenticator whose Run ends with the test.
func newAuth(t *testing.T, b Backend, adjust func(*Config)) *Authenticator {
	t.Helper()
	cfg := Config{Backend: b}
	if adjust != nil {
		adjust(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return a
}

// rpcContext is the context of an RPC with a token, outside of any server.
func rpcContext(ctx context.Context, a *Authenticator, token string) context.Context {
	r := &rpc{auth: a, token: token, key: keyOf(token)}
	r.generation.Store(a.generation.Load())
	return context.WithValue(ctx, rpcKey{}, r)
}

const service = "test.Agents"

type handlers struct {
	unary  func(context.Context, string) (string, error)
	stream func(grpc.ServerStream) error
}

// serve runs a gRPC server with a's interceptors and returns its address.
func serve(t *testing.T, a *Authenticator, h handlers) string {
	t.Helper()
	server := grpc.NewServer(grpc.Creds(Credentials(nil)), grpc.InTapHandle(Tap),
		grpc.UnaryInterceptor(a.UnaryInterceptor), grpc.StreamInterceptor(a.StreamInterceptor))
	desc := &grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil)}
	if h.unary != nil {
		desc.Methods = []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/" + service + "/Unary"}, func(ctx context.Context, req any) (any, error) {
				out, err := h.unary(ctx, req.(*wrapperspb.StringValue).GetValue())
				return wrapperspb.String(out), err
			})
		}}}
	}
	if h.stream != nil {
		desc.Streams = []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			return h.stream(s)
		}}}
	}
	server.RegisterService(desc, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("Serve: %v", err)
		}
	})
	return listener.Addr().String()
}

func connect(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call makes a unary call with the given authorization values.
func call(t *testing.T, conn *grpc.ClientConn, say string, authorization ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	for _, v := range authorization {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	out := &wrapperspb.StringValue{}
	err := conn.Invoke(ctx, "/"+service+"/Unary", wrapperspb.String(say), out)
	return out.GetValue(), err
}

func echo(_ context.Context, say string) (string, error) { return say, nil }

// eventually polls until ok says true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testWait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
