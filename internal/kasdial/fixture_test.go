package kasdial

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"gitlab.com/agentk/agentk/internal/wsconn"
)

const testWait = time.Minute

// kas is a server that answers every unary call with what it saw of it.
type kas struct {
	t       *testing.T
	addr    string
	server  *grpc.Server
	muxDone chan error
	done    chan error
	seen    chan metadata.MD
	hanging chan struct{} // gets a value for every stream
}

// startKas listens on addr ("" for any) with TLS if conf is not nil.
func startKas(t *testing.T, addr string, conf *tls.Config, params keepalive.ServerParameters) *kas {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	var listener net.Listener
	eventually(t, "the address is free", func() bool {
		var err error
		listener, err = net.Listen("tcp", addr)
		return err == nil
	})
	mux, err := wsconn.NewMux(wsconn.MuxConfig{Listener: listener, TLS: conf, WebSocket: true})
	if err != nil {
		t.Fatal(err)
	}
	k := &kas{
		t: t, addr: listener.Addr().String(), server: grpc.NewServer(grpc.KeepaliveParams(params)),
		muxDone: make(chan error, 1), done: make(chan error, 1), seen: make(chan metadata.MD, 100), hanging: make(chan struct{}, 100),
	}
	k.server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Kas", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			md, _ := metadata.FromIncomingContext(ctx)
			select {
			case k.seen <- md:
			default:
			}
			return in, nil
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Hang", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			k.hanging <- struct{}{}
			<-s.Context().Done()
			return nil
		}}},
	}, nil)
	go func() { k.muxDone <- mux.Run(context.Background()) }()
	go func() { k.done <- k.server.Serve(mux.GRPCListener()) }()
	t.Cleanup(k.stop)
	return k
}

// stop cuts everything. It may be called more than once.
func (k *kas) stop() {
	k.server.Stop()
	for _, c := range []chan error{k.muxDone, k.done} {
		err := <-c
		c <- nil
		if err != nil && err != grpc.ErrServerStopped {
			k.t.Errorf("kas: %v", err)
		}
	}
}

func (k *kas) port() string { return k.addr[strings.LastIndex(k.addr, ":")+1:] }

// events collects what a client tells.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) add(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

// count counts the events that ok accepts.
func (e *events) count(ok func(Event) bool) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, event := range e.all {
		if ok(event) {
			n++
		}
	}
	return n
}

// connect makes a client of address.
func connect(t *testing.T, address string, adjust func(*Config)) (*Client, *events) {
	t.Helper()
	told := &events{}
	cfg := Config{
		Address: address, TokenSource: func() string { return "token" }, UserAgent: "gitlab-agent/v1/test", OnState: told.add,
	}
	if adjust != nil {
		adjust(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, told
}

func call(t *testing.T, c *Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testWait)
	defer cancel()
	out := &wrapperspb.StringValue{}
	err := c.Invoke(ctx, "/test.Kas/Unary", wrapperspb.String("hello"), out, grpc.WaitForReady(true))
	if err == nil && out.GetValue() != "hello" {
		t.Errorf("got %q", out.GetValue())
	}
	return err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testWait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// privateCA returns a server configuration for the given name and the file of its CA.
func privateCA(t *testing.T, name string) (*tls.Config, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{name}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, file
}

// connectProxy is an HTTP proxy that knows CONNECT and resolves every name to loopback.
func connectProxy(t *testing.T, asked chan<- string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { tunnel(conn, asked) })
		}
	})
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	return listener.Addr().String()
}

func tunnel(conn net.Conn, asked chan<- string) {
	defer conn.Close()
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	asked <- r.Method + " " + r.Host
	_, port, _ := net.SplitHostPort(r.Host)
	far, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return
	}
	defer far.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(far, conn); far.Close(); conn.Close() })
	_, _ = io.Copy(conn, far)
	conn.Close()
	wg.Wait()
}
