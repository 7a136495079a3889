package kasdial

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// front is a reverse proxy in front of kas that answers with a page while status is not 0.
type front struct {
	addr   string
	status atomic.Int32
	asked  atomic.Int32 // how often it answered itself
}

func startFront(t *testing.T) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kas := grpc.NewServer()
	kas.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Kas", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			in := &wrapperspb.StringValue{}
			if err := s.RecvMsg(in); err != nil {
				return err
			}
			return s.SendMsg(in)
		}}},
	}, nil)
	f := &front{addr: listener.Addr().String()}
	web := &http.Server{ReadHeaderTimeout: time.Second, Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code := f.status.Load(); code != 0 {
			f.asked.Add(1)
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(int(code))
			_, _ = io.WriteString(w, "<html>\n<h1>nginx</h1>")
			return
		}
		kas.ServeHTTP(w, r)
	})}
	web.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- web.Serve(listener) }()
	t.Cleanup(func() { web.Close(); <-done; kas.Stop() })
	return f
}

var streamDesc = &grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}

// exchange sends a message over a stream of its own and gets it back.
func exchange(ctx context.Context, c *Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.NewStream(ctx, streamDesc, "/test.Kas/Stream", grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(wrapperspb.String("hello")); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return stream.RecvMsg(&wrapperspb.StringValue{})
}

// A page in the place of kas is told once, with what it usually means; streams wait until kas is back, which is noticed without them.
func TestClient_ProxyAnswersForKas(t *testing.T) {
	for code, advice := range map[int32]string{
		403: "something in front of kas refuses", 404: "does not route this path", 502: "kas is not running", 200: "this is a web page",
	} {
		t.Run(http.StatusText(int(code)), func(t *testing.T) {
			t.Parallel()
			f := startFront(t)
			f.status.Store(code)
			core, logs := observer.New(zap.InfoLevel)
			c, told := connect(t, "grpc://"+f.addr, func(cfg *Config) { cfg.Log = zap.New(core) })
			err := exchange(t.Context(), c)
			if status.Code(err) != codes.Canceled || !strings.Contains(err.Error(), advice) || strings.Contains(err.Error(), "html") {
				t.Errorf("stream: %v", err)
			}
			eventually(t, "the reason is told", func() bool {
				return told.count(func(e Event) bool { return e.Change == AttemptFailed && strings.Contains(e.Reason.Error(), advice) }) == 1
			})
			if err := c.Invoke(t.Context(), "/test.Kas/Unary", wrapperspb.String("x"), &wrapperspb.StringValue{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), advice) {
				t.Errorf("unary: %v", err)
			}
			asked := f.asked.Load()
			done := make(chan error, 1)
			go func() { done <- exchange(t.Context(), c) }()
			eventually(t, "the next question", func() bool { return f.asked.Load() > asked })
			select {
			case err := <-done:
				t.Errorf("a stream did not wait: %v", err)
			default:
			}
			f.status.Store(0)
			if err := <-done; err != nil {
				t.Errorf("a stream that waited: %v", err)
			}
			eventually(t, "connected again", func() bool { return told.count(func(e Event) bool { return e.Change == Connected }) == 2 })
			if n := logs.FilterMessage("Cannot connect to gRPC server").Len(); n != 1 {
				t.Errorf("%d lines about it, want one", n)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			f.status.Store(code)
			_ = exchange(t.Context(), c)
			if err := exchange(ctx, c); status.Code(err) != codes.Canceled {
				t.Errorf("a stream that is not wanted any more: %v", err)
			}
		})
	}
}

// One answer that is not from kas, of a proxy that was restarted for example, is nothing to tell.
func TestClient_OneForeignAnswer(t *testing.T) {
	f := startFront(t)
	core, logs := observer.New(zap.WarnLevel)
	c, told := connect(t, "grpc://"+f.addr, func(cfg *Config) { cfg.Log = zap.New(core) })
	if err := exchange(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	f.status.Store(504)
	if err := exchange(t.Context(), c); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	f.status.Store(0)
	if err := exchange(t.Context(), c); err != nil {
		t.Error(err)
	}
	if n := told.count(func(e Event) bool { return e.Change != Connected }); n+logs.Len() > 0 {
		t.Errorf("%d events and %d lines", n, logs.Len())
	}
}

// TestClient_LostStream pins how gRPC spells the loss of a connection, for streams and for those on it when it is draining.
func TestClient_LostStream(t *testing.T) {
	for _, scheme := range []string{"grpc", "ws"} {
		k := startKas(t, "", nil, noLimits)
		c, _ := connect(t, scheme+"://"+k.addr, nil)
		stream, err := c.NewStream(t.Context(), streamDesc, "/test.Kas/Hang", grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		<-k.hanging
		k.stop()
		if err := stream.RecvMsg(&wrapperspb.StringValue{}); status.Code(err) != codes.Canceled || !strings.Contains(err.Error(), "the connection to kas was lost") {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// Kas has two addresses. One that fails is no news while the other works.
func TestClient_TwoAddresses(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	registry := prometheus.NewRegistry()
	first := startKas(t, "127.0.0.1:0", nil, noLimits)
	second := startKas(t, "127.0.0.2:"+first.port(), nil, noLimits)
	c, told := connect(t, "grpc://kas.test:"+first.port(), func(cfg *Config) {
		cfg.Log, cfg.Registerer = zap.New(core), registry
		cfg.lookup = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1", "127.0.0.2"}, nil }
	})
	reach := func(k *kas) {
		t.Helper()
		eventually(t, "calls reach "+k.addr, func() bool {
			if err := call(t, c); err != nil {
				t.Fatal(err)
			}
			return len(k.seen) > 0
		})
	}
	reach(first)
	reach(second)
	second.stop()
	eventually(t, "two failed attempts", func() bool { return value(t, registry, "gitlab_kas_tunnel_connections_total", "failure") >= 2 })
	if err := call(t, c); err != nil {
		t.Error(err)
	}
	if n := told.count(func(Event) bool { return true }); n != 1 || logs.Len() != 1 {
		t.Errorf("%d events and %d lines, want the first connection only", n, logs.Len())
	}
	second = startKas(t, second.addr, nil, noLimits)
	reach(second)
	first.stop()
	second.stop()
	eventually(t, "the loss is told", func() bool {
		return told.count(func(e Event) bool { return e.Change == Disconnected }) == 1 && told.count(func(e Event) bool { return e.Change == AttemptFailed }) > 0
	})
	startKas(t, first.addr, nil, noLimits)
	eventually(t, "connected again", func() bool { return told.count(func(e Event) bool { return e.Change == Connected }) == 2 })
}
