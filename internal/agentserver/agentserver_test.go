package agentserver

import (
	"context"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/grpcserver"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestServer_BothTransports(t *testing.T) {
	f := start(t, nil)
	for name, webSocket := range map[string]bool{"gRPC": false, "WebSocket": true} {
		conn := f.client(t, webSocket)
		for _, size := range []int{0, 1, 100_000, 3 << 20} {
			if err := call(t, conn, size); err != nil {
				t.Errorf("%s, %d bytes: %v", name, size, err)
			}
		}
		if err := call(t, conn, 1000, grpc.UseCompressor(gzip.Name)); err != nil {
			t.Errorf("%s, gzip: %v", name, err)
		}
		if err := call(t, conn, grpcserver.MaxMessage); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s, too large: %v", name, err)
		}
	}
}

// Stock agents compress and would get every answer compressed, which costs time and saves nothing.
func TestServer_AnswersAreNotCompressed(t *testing.T) {
	f := start(t, nil)
	r := f.raw(t)
	id := r.headers(unary, "grpc-encoding", "gzip", "grpc-accept-encoding", "gzip", "authorization", "Bearer token")
	r.message(id, wrapperspb.Bytes(make([]byte, 1000)), true)
	header, data, trailer := r.answer(id)
	if got := header["grpc-encoding"]; got != "identity" && got != "" {
		t.Errorf("grpc-encoding %q", got)
	}
	if len(data) != 5+1000+3 || data[0] != 0 {
		t.Errorf("%d bytes of data, compressed flag %d", len(data), data[0])
	}
	if trailer["grpc-status"] != "0" {
		t.Errorf("trailer %v", trailer)
	}
}

// CVE-2026-33186: a path without its leading slash must not get past the interceptors.
func TestServer_PathWithoutSlash(t *testing.T) {
	f := start(t, nil)
	for _, path := range []string{strings.TrimPrefix(unary, "/"), "//" + strings.TrimPrefix(unary, "/"), "/", "", "*"} {
		r := f.raw(t)
		id := r.headers(path) // no token: an interceptor that is skipped would let this through
		r.message(id, wrapperspb.Bytes(nil), false)
		_, data, trailer := r.answer(id)
		if len(data) > 0 || trailer["grpc-status"] == "0" {
			t.Errorf("path %q was served: %v", path, trailer)
		}
	}
}

func TestServer_NoToken(t *testing.T) {
	f := start(t, nil)
	r := f.raw(t)
	for _, path := range []string{unary, poll, hang} {
		id := r.headers(path)
		r.message(id, wrapperspb.Bytes(nil), false)
		if _, _, trailer := r.answer(id); trailer["grpc-status"] != "16" {
			t.Errorf("%s: %v, want Unauthenticated", path, trailer)
		}
	}
}

func TestServer_LongHeaderList(t *testing.T) {
	f := start(t, nil)
	r := f.raw(t)
	for i := range 900 { // each costs its full size in the block
		r.must(r.enc.WriteField(field("x-filler", strings.Repeat("a", 80)+string(rune('a'+i%26)))))
	}
	const id = 1
	// Sent as HEADERS and CONTINUATION frames.
	block := r.block.Bytes()
	r.must(r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:16<<10]}))
	for block = block[16<<10:]; len(block) > 0; {
		n := min(len(block), 16<<10)
		if err := r.framer.WriteContinuation(id, n == len(block), block[:n]); err != nil {
			break // cut off early: as good
		}
		block = block[n:]
	}
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			return // the connection was closed
		}
		if reset, ok := frame.(*http2.RSTStreamFrame); ok && reset.StreamID == id {
			return
		}
	}
}

// CVE-2023-44487: streams opened and reset at once leave nothing behind, and others are served meanwhile.
func TestServer_RapidReset(t *testing.T) {
	f := start(t, nil)
	healthy := f.client(t, false)
	if err := call(t, healthy, 1); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	r := f.raw(t)
	go func() { // the server's frames have to be taken
		for {
			if _, err := r.framer.ReadFrame(); err != nil {
				return
			}
		}
	}()
	start := time.Now()
	for range 10_000 {
		id := r.headers(hang, "authorization", "Bearer token")
		if err := r.framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
			break // cut off: as good
		}
	}
	if err := call(t, healthy, 1); err != nil {
		t.Errorf("another agent meanwhile: %v", err)
	}
	eventually(t, "all handlers are gone", func() bool { return f.running.Load() == 0 && runtime.NumGoroutine() < before+50 })
	if took := time.Since(start); took > testWait {
		t.Errorf("took %v", took)
	}
}

func TestServer_ConnectionAge(t *testing.T) {
	f := start(t, func(cfg *Config) { cfg.MaxConnectionAge = 2 * time.Second })
	r := f.raw(t)
	began := time.Now()
	sawGoAway := false
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			break
		}
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			sawGoAway = true
		case *http2.PingFrame:
			if !frame.IsAck() {
				r.must(r.framer.WritePing(true, frame.Data))
			}
		}
	}
	if age := time.Since(began); !sawGoAway || age < 300*time.Millisecond || age > testWait {
		t.Errorf("GOAWAY %v, ended after %v", sawGoAway, age)
	}
}

// An orderly stop: long polls end with OK, running RPCs finish, and only then is the server gone.
func TestServer_StopsInOrder(t *testing.T) {
	f := start(t, nil)
	conn := f.client(t, true)
	polls, busy := open(t, conn, poll), open(t, conn, hang)
	eventually(t, "both run", func() bool { return f.running.Load() == 2 })
	f.cancel()
	if err := polls.RecvMsg(&wrapperspb.BytesValue{}); err != io.EOF {
		t.Errorf("long poll: %v, want a clean end", err)
	}
	select {
	case err := <-f.done:
		t.Fatalf("Run ended with an RPC running: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	conn.Close()
	// Which of the two codes it is depends on what the client notices first of its own Close.
	if err := busy.RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != codes.Canceled && status.Code(err) != codes.Unavailable {
		t.Errorf("busy: %v", err)
	}
	f.wait(t)
}

func TestServer_CutsWhatDoesNotEnd(t *testing.T) {
	f := start(t, func(cfg *Config) { cfg.DrainTimeout = 50 * time.Millisecond })
	busy := open(t, f.client(t, false), hang)
	eventually(t, "it runs", func() bool { return f.running.Load() == 1 })
	f.cancel()
	f.wait(t)
	if err := busy.RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := f.running.Load(); n != 0 {
		t.Errorf("%d handlers still run", n)
	}
}

func TestServer_AcceptsDuringGracePeriod(t *testing.T) {
	f := start(t, func(cfg *Config) { cfg.ListenGracePeriod = 2 * time.Second })
	if err := call(t, f.client(t, false), 1); err != nil {
		t.Fatal(err)
	}
	f.cancel()
	if err := call(t, f.client(t, false), 1); err != nil {
		t.Errorf("a new connection in the grace period: %v", err)
	}
	f.wait(t)
	ctx, cancel := context.WithTimeout(withToken(t.Context()), time.Second)
	defer cancel()
	if err := f.client(t, false).Invoke(ctx, unary, wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err == nil {
		t.Error("still serving")
	}
}

func TestServer_Metrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	f := start(t, func(cfg *Config) { cfg.Registerer = registry })
	if err := call(t, f.client(t, false), 1); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, family := range families {
		names[family.GetName()] = true
	}
	for _, want := range []string{"grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total"} {
		if !names[want] {
			t.Errorf("no metric %s", want)
		}
	}
}

func TestNew_Bad(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no error")
	}
}
