package peer

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	service  = "test.Service"
	method   = "Echo"
	patience = time.Minute
)

// key is a shared secret.
type key string

func (k key) Key() []byte { return []byte(k) }

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newPool(t *testing.T, cfg PoolConfig) *Pool {
	t.Helper()
	p, err := NewPool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// liar is a private API that says what a test wants it to.
func liar(t *testing.T, say func(grpc.ServerStream) error) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return say(s) }))
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return "grpc://" + ln.Addr().String()
}

func frames(s grpc.ServerStream, raws ...string) error {
	for _, raw := range raws {
		if err := s.SendMsg(&frame.Raw{Data: mem.BufferSlice{mem.SliceBuffer([]byte(raw))}}); err != nil {
			return err
		}
	}
	return nil
}

// Frames of a gateway, written by hand.
const (
	rawReady    = "\x0a\x00"
	rawHeader   = "\x12\x00"
	rawMessage  = "\x1a\x03\x0a\x01x"
	rawTrailer  = "\x22\x00"
	rawError    = "\x2a\x04\x0a\x02\x08\x0e"
	rawNoTunnel = "\x32\x00"
	rawUnknown  = "\x4a\x00"
	rawGarbage  = "\xff\xff\xff"
)

func TestStream_BreachesAreTheOtherKas(t *testing.T) {
	for name, raws := range map[string][]string{
		"header before ready":      {rawHeader},
		"error before ready":       {rawError},
		"garbage before ready":     {rawGarbage},
		"message before header":    {rawReady, rawMessage},
		"trailer before header":    {rawReady, rawTrailer},
		"ready twice":              {rawReady, rawReady},
		"no tunnel after ready":    {rawReady, rawNoTunnel},
		"message after trailer":    {rawReady, rawHeader, rawTrailer, rawMessage},
		"error without trailer":    {rawReady, rawHeader, rawError},
		"unknown member":           {rawReady, rawUnknown},
		"nothing":                  {rawReady, ""},
		"garbage":                  {rawReady, rawHeader, rawGarbage},
		"error with status OK":     {rawReady, rawHeader, rawTrailer, "\x2a\x02\x0a\x00"},
		"end before trailer":       {rawReady, rawHeader},
		"end without having begun": {rawReady},
	} {
		t.Run(name, func(t *testing.T) {
			url := liar(t, func(s grpc.ServerStream) error { return frames(s, raws...) })
			s, err := newPool(t, PoolConfig{Keys: key("k")}).Ask(bounded(t), url, Request{AgentID: 1, Service: service, Method: method})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Finish(false)
			ready, err := s.Wait()
			for err == nil && ready {
				var msg mem.BufferSlice
				msg, err = s.Recv()
				msg.Free()
			}
			if fault.HopOf(err) != fault.OtherKas || fault.KindOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), url) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStream_Ends(t *testing.T) {
	for name, tt := range map[string]struct {
		say  func(grpc.ServerStream) error
		lost bool
		kind fault.Kind
		hop  fault.Hop
	}{
		"agent lost":  {func(grpc.ServerStream) error { return status.Error(codes.Canceled, "agent disconnected") }, true, fault.Canceled, fault.Agent},
		"kas lost":    {func(grpc.ServerStream) error { return status.Error(codes.Unavailable, "closing") }, true, fault.Unavailable, fault.OtherKas},
		"kas trouble": {func(grpc.ServerStream) error { return status.Error(codes.Internal, "panic") }, false, fault.Internal, fault.OtherKas},
		"call's own":  {func(s grpc.ServerStream) error { return frames(s, rawHeader, rawTrailer, rawError) }, false, fault.Unavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			url := liar(t, func(s grpc.ServerStream) error { return errors.Join(frames(s, rawReady), tt.say(s)) })
			s, err := newPool(t, PoolConfig{Keys: key("k")}).Ask(bounded(t), url, Request{AgentID: 1, Service: service, Method: method})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Finish(false)
			if ready, err := s.Wait(); !ready {
				t.Fatal(err)
			}
			_, err = s.Recv()
			if errors.Is(err, httpgrpc.ErrLost) != tt.lost || fault.KindOf(err) != tt.kind || fault.HopOf(err) != tt.hop {
				t.Errorf("got %v, kind %s, hop %q", err, fault.KindOf(err), fault.HopOf(err))
			}
		})
	}
}

func TestParseURL(t *testing.T) {
	for address, want := range map[string]string{
		"grpc://10.0.0.1:8155": "dns:10.0.0.1:8155", "grpc://kas": "dns:kas:80", "grpcs://kas": "secure dns:kas:443", "grpc://[::1]:1": "dns:[::1]:1",
		"unix:///run/s": "unix:/run/s", "unixs:///run/s": "secure unix:/run/s", "unixs://run/s": "", "unix://run/s": "", "http://kas": "", "kas:8155": "", "": "", "grpc://": "", "grpc://%zz": "",
	} {
		target, secure, err := parseURL(address)
		if secure {
			target = "secure " + target
		}
		if target != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q %v", address, target, err)
		}
	}
}

func TestPool_Failures(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "grpc://" + ln.Addr().String()
	_ = ln.Close()
	for name, tt := range map[string]struct {
		cfg       PoolConfig
		url, want string
	}{
		"refused":    {PoolConfig{Keys: key("k")}, dead, "connection refused"},
		"scheme":     {PoolConfig{Keys: key("k")}, "http://kas", "the scheme must be grpc, grpcs, unix or unixs"},
		"no CA":      {PoolConfig{Keys: key("k"), CAFile: "/nowhere"}, "grpcs://kas", "ca_certificate_file: open /nowhere"},
		"bad CA":     {PoolConfig{Keys: key("k"), CAFile: empty}, "grpcs://kas", "no certificate in it"},
		"no socket":  {PoolConfig{Keys: key("k")}, "unix:///nowhere/s", "no such file"},
		"never seen": {PoolConfig{Keys: key("k")}, "", "the scheme must be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newPool(t, tt.cfg).Ask(bounded(t), tt.url, Request{AgentID: 1, Service: service, Method: method})
			if err == nil || fault.HopOf(err) != fault.OtherKas || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "other kas at "+tt.url) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := NewPool(PoolConfig{}); err == nil {
		t.Error("a pool without keys")
	}
	p := newPool(t, PoolConfig{Keys: key("k")})
	p.Close()
	if _, err := p.Ask(bounded(t), dead, Request{AgentID: 1, Service: service, Method: method}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after its end: %v", err)
	}
}

func TestPool_ForgetsConnectionsThatNobodyUses(t *testing.T) {
	p := newPool(t, PoolConfig{Keys: key("k")})
	a, err := p.acquire("grpc://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.acquire("grpc://127.0.0.1:2")
	if err != nil {
		t.Fatal(err)
	}
	p.release(a)
	a.unused = time.Now().Add(-2 * keepUnused)
	if again, err := p.acquire("grpc://127.0.0.1:2"); err != nil || again != b {
		t.Errorf("another connection to the same kas, %v", err)
	}
	p.release(b)
	if len(p.conns) != 1 || b.users != 1 {
		t.Errorf("%d connections, %d users of the last", len(p.conns), b.users)
	}
	p.release(b)
}

// serve runs a private API without agents.
func serve(t *testing.T, k key) (url string) {
	t.Helper()
	return "unix://" + serveTLS(t, k, nil)
}

// serveTLS is serve with TLS, unless that is nil; it returns the path of the socket.
func serveTLS(t *testing.T, k key, secure *tls.Config) (socket string) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	server, err := NewServer(ServerConfig{
		Listener: ln, Keys: k, TLS: secure, Registry: tunnel.NewRegistry(tunnel.RegistryConfig{Registerer: registry}),
		Methods: map[string][]string{service: {method}}, DrainTimeout: -1, Log: zap.NewNop(), Registerer: registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// A socket with TLS is reached as unixs, by whoever trusts its certificate, and not without TLS.
func TestServer_TLSOnASocket(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	certified.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := serveTLS(t, "k", &tls.Config{MinVersion: tls.VersionTLS12, Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}})
	for _, tt := range []struct {
		url, name string
		reached   bool
	}{
		{"unixs://" + socket, "example.com", true},
		{"unixs://" + socket, "other.test", false},
		{"unix://" + socket, "example.com", false},
	} {
		pool := newPool(t, PoolConfig{Keys: key("k"), CAFile: ca, ServerName: tt.name})
		s, err := pool.Ask(bounded(t), tt.url, Request{AgentID: 1, Service: service, Method: method, Eager: true})
		if err == nil {
			_, err = s.Wait()
			s.Finish(false)
		}
		if reached := fault.KindOf(err) != fault.Unavailable; reached != tt.reached {
			t.Errorf("%s as %s: %v", tt.url, tt.name, err)
		}
	}
}

func TestServer_AnotherSecret(t *testing.T) {
	url := serve(t, "right")
	s, err := newPool(t, PoolConfig{Keys: key("wrong")}).Ask(bounded(t), url, Request{AgentID: 1, Service: service, Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Finish(false)
	if _, err := s.Wait(); fault.KindOf(err) != fault.Unauthenticated || fault.HopOf(err) != fault.OtherKas || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
}

func TestServer_Requests(t *testing.T) {
	url := serve(t, "k")
	for name, q := range map[string]Request{
		"no agent": {AgentID: 0, Service: service, Method: method}, "negative": {AgentID: -1, Service: service, Method: method},
		"unknown method": {AgentID: 1, Service: service, Method: "Other"},
	} {
		s, err := newPool(t, PoolConfig{Keys: key("k")}).Ask(bounded(t), url, q)
		if err != nil {
			t.Fatal(err)
		}
		if ready, err := s.Wait(); ready || err == nil {
			t.Errorf("%s: %t %v", name, ready, err)
		}
		s.Finish(false)
	}
	// An agent that is not here: one word, and then waiting. An eager request is told so and is over.
	pool := newPool(t, PoolConfig{Keys: key("k")})
	for _, eager := range []bool{false, true} {
		ctx, cancel := context.WithCancel(bounded(t))
		s, err := pool.Ask(ctx, url, Request{AgentID: 1, Service: service, Method: method, Eager: eager})
		if err != nil {
			t.Fatal(err)
		}
		ready, err := s.Wait()
		if ready || errors.Is(err, ErrRefused) != eager || !eager && err != nil {
			t.Errorf("eager %t: %t %v", eager, ready, err)
		}
		cancel()
		if _, err := s.Wait(); err == nil || errors.Is(err, io.EOF) && !eager {
			t.Errorf("the stream goes on without its caller: %v", err)
		}
		s.Finish(false)
	}
}

func TestNewServer_Incomplete(t *testing.T) {
	if _, err := NewServer(ServerConfig{}); err == nil {
		t.Error("accepted")
	}
}

func TestFollows(t *testing.T) {
	if follows(memberReady, protowire.Number(0)) || follows(memberReady, memberNoTunnel) {
		t.Error("anything may follow")
	}
}
