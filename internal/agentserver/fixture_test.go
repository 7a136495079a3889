package agentserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"gitlab.com/agentk/agentk/internal/agentauth"
	"gitlab.com/agentk/agentk/internal/backend"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/wsconn"
)

const (
	testWait = time.Minute
	unary    = "/test.Agents/Unary"
	poll     = "/test.Agents/Poll"
	hang     = "/test.Agents/Hang"
)

type anyAgent struct{}

func (anyAgent) AgentByToken(context.Context, string) (backend.Agent, error) {
	return backend.Agent{ID: 1}, nil
}
func (anyAgent) Changed() <-chan struct{} { return nil }

// fixture is a running server with three methods: Unary echoes, Poll ends at the age limit, Hang ends with its context.
type fixture struct {
	addr    string
	cancel  context.CancelFunc
	done    chan error
	running atomic.Int64 // handlers of Poll and Hang
}

func start(t testing.TB, adjust func(*Config)) *fixture {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux, err := wsconn.NewMux(wsconn.MuxConfig{Listener: listener, WebSocket: true})
	if err != nil {
		t.Fatal(err)
	}
	auth, err := agentauth.New(agentauth.Config{Backend: anyAgent{}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{addr: listener.Addr().String(), done: make(chan error, 1)}
	cfg := Config{Mux: mux, Auth: auth, Register: f.register, ListenGracePeriod: -1, DrainTimeout: testWait}
	if adjust != nil {
		adjust(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	authDone := make(chan struct{})
	go func() { defer close(authDone); _ = auth.Run(ctx) }()
	go func() { f.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-authDone
		f.wait(t)
	})
	return f
}

// wait waits for Run; it may be called more than once.
func (f *fixture) wait(t testing.TB) {
	t.Helper()
	select {
	case err := <-f.done:
		f.done <- err
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(2 * testWait):
		t.Error("Run does not end")
	}
}

func (f *fixture) register(r grpc.ServiceRegistrar) {
	stream := func(run func(grpc.ServerStream) error) grpc.StreamHandler {
		return func(_ any, s grpc.ServerStream) error {
			f.running.Add(1)
			defer f.running.Add(-1)
			return run(s)
		}
	}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Agents", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.BytesValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{FullMethod: unary}, func(_ context.Context, req any) (any, error) { return req, nil })
		}}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Poll", ServerStreams: true, ClientStreams: true, Handler: stream(func(s grpc.ServerStream) error {
				<-agentauth.AgeLimit(s.Context()).Done()
				return s.Context().Err()
			})},
			{StreamName: "Sink", ServerStreams: true, ClientStreams: true, Handler: stream(func(s grpc.ServerStream) error {
				for {
					var message frame.Raw
					err := s.RecvMsg(&message)
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					message.Data.Free()
				}
			})},
			{StreamName: "Hang", ServerStreams: true, ClientStreams: true, Handler: stream(func(s grpc.ServerStream) error {
				<-s.Context().Done()
				return s.Context().Err()
			})},
		},
	}, nil)
}

// client is a channel over plain gRPC or inside WebSocket.
func (f *fixture) client(t testing.TB, webSocket bool, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if webSocket {
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&wsconn.Dialer{}).Dial(ctx, &url.URL{Scheme: "ws", Host: f.addr, Path: "/"})
		}))
	}
	conn, err := grpc.NewClient("passthrough:"+f.addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func withToken(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer token")
}

func call(t *testing.T, conn *grpc.ClientConn, size int, opts ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(withToken(t.Context()), testWait)
	defer cancel()
	out := &wrapperspb.BytesValue{}
	err := conn.Invoke(ctx, unary, wrapperspb.Bytes(make([]byte, size)), out, opts...)
	if err == nil && len(out.GetValue()) != size {
		t.Errorf("%d bytes came back of %d", len(out.GetValue()), size)
	}
	return err
}

func open(t *testing.T, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(withToken(t.Context()), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testWait); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// rawHTTP2 is an HTTP/2 client made of frames.
type rawHTTP2 struct {
	t      *testing.T
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
	next   uint32
}

func (f *fixture) raw(t *testing.T) *rawHTTP2 {
	t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * testWait)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	r := &rawHTTP2{t: t, framer: http2.NewFramer(conn, conn), next: 1}
	r.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.enc = hpack.NewEncoder(&r.block)
	r.must(r.framer.WriteSettings())
	return r
}

func (r *rawHTTP2) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// headers opens a stream.
func (r *rawHTTP2) headers(path string, more ...string) uint32 {
	r.t.Helper()
	r.block.Reset()
	fields := append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "ws:%2F%2Fkas", "content-type", "application/grpc",
		"te", "trailers",
	}, more...)
	for i := 0; i < len(fields); i += 2 {
		r.must(r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	id := r.next
	r.next += 2
	r.must(r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block.Bytes(), EndHeaders: true}))
	return id
}

// message sends one gRPC message and ends the stream.
func (r *rawHTTP2) message(id uint32, m proto.Message, compress bool) {
	r.t.Helper()
	body, err := proto.Marshal(m)
	r.must(err)
	flag := byte(0)
	if compress {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		_, err := w.Write(body)
		r.must(err)
		r.must(w.Close())
		body, flag = buf.Bytes(), 1
	}
	r.must(r.framer.WriteData(id, true, append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(body))), body...)))
}

// answer reads the frames of one stream: the first header block, the data and the trailers.
func (r *rawHTTP2) answer(id uint32) (header map[string]string, data []byte, trailer map[string]string) {
	r.t.Helper()
	for {
		frame, err := r.framer.ReadFrame()
		r.must(err)
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				r.must(r.framer.WriteSettingsAck())
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				r.must(r.framer.WritePing(true, f.Data))
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				continue
			}
			fields := make(map[string]string)
			for _, hf := range f.Fields {
				fields[hf.Name] = hf.Value
			}
			if header == nil {
				header = fields
			}
			if f.StreamEnded() {
				return header, data, fields
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				data = append(data, f.Data()...)
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return header, data, map[string]string{"rst": f.ErrCode.String()}
			}
		}
	}
}

func field(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value, Sensitive: true}
}
