package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

func request() Request { return Request{AgentID: 1, Service: service, Method: method} }

// serial is a Pool for which the replica at url serves series.
func serial(t *testing.T, url string) *Pool {
	t.Helper()
	p := newPool(t, PoolConfig{Keys: key("k")})
	c, err := p.acquire(url)
	if err != nil {
		t.Fatal(err)
	}
	c.serial.Store(true)
	p.release(c)
	return p
}

// begin begins a whole request.
func begin(t *testing.T, p *Pool, url string) *Turn {
	t.Helper()
	b, err := p.Begin(bounded(t), url, request())
	if err != nil {
		t.Fatal(err)
	}
	turn, ok := b.(*Turn)
	if !ok {
		t.Fatalf("%T is not in a series", b)
	}
	if err := turn.Send(mem.BufferSlice{mem.SliceBuffer("hello")}); err != nil {
		t.Fatal(err)
	}
	if err := turn.CloseSend(); err != nil {
		t.Fatal(err)
	}
	return turn
}

// answered reads the answer of a turn to its end.
func answered(turn *Turn) error {
	ready, err := turn.Wait()
	for err == nil && ready {
		var msg mem.BufferSlice
		msg, err = turn.Recv()
		msg.Free()
	}
	return err
}

func idle(p *Pool, url string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns[url].idle)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// answering is a private API that answers every request of a series with one message, and the streams that it has got.
func answering(t *testing.T) (url string, streams <-chan string) {
	t.Helper()
	got := make(chan string, 1000)
	url = liar(t, func(s grpc.ServerStream) error {
		path, _ := grpc.MethodFromServerStream(s)
		got <- path
		for {
			raw := frame.Raw{}
			if err := s.RecvMsg(&raw); err != nil {
				return nil
			}
			o, ok := readOpening(raw.Data.Materialize())
			raw.Data.Free()
			if !ok || !o.whole || len(o.messages) != 1 {
				return status.Error(codes.InvalidArgument, "not a whole request")
			}
			if err := frames(s, rawMessage, rawTrailer); err != nil {
				return err
			}
		}
	})
	return url, got
}

func TestOpening(t *testing.T) {
	q := Request{AgentID: 7, Service: "s", Method: "m", Require: []string{"a/b", "c/d"}, Meta: map[string][]string{"traceparent": {"x"}, "agentk-n": {"", "2"}}}
	data := openingInfo(q).Materialize()
	info := len(data)
	for _, payload := range []string{"one", ""} {
		data = append(data, frame.Wrap(frame.ConnectResponseMessage, mem.BufferSlice{mem.SliceBuffer(payload)}).Materialize()...)
	}
	data = append(data, frame.Empty(frame.ConnectCloseSend).Materialize()...)
	o, ok := readOpening(data)
	want := opening{
		method: "/s/m", whole: true, messages: [][]byte{[]byte("one"), nil},
		meta: metadata.MD{metaAgentID: {"7"}, metaRequire: {"a/b", "c/d"}, "traceparent": {"x"}, "agentk-n": {"", "2"}},
	}
	if diff := cmp.Diff(want, o, cmp.AllowUnexported(opening{})); !ok || diff != "" {
		t.Errorf("%t %s", ok, diff)
	}
	if o, ok := readOpening(data[:info]); !ok || o.whole || o.messages != nil {
		t.Errorf("without messages: %+v %t", o, ok)
	}
	for name, bad := range map[string]string{
		"nothing": "", "no info": string(data[info:]), "garbage": "\xff\xff", "info twice": string(data[:info]) + string(data[:info]),
		"cut": string(data[:info-1]), "more after the end": string(data) + rawMessage[:2], "a message without data": string(data[:info]) + "\x12\x02\x12\x00",
		"no method": "\x0a\x02\x12\x00", "a pair of nothing": "\x0a\x06\x0a\x02/x\x12\x00", "a pair without values": "\x0a\x09\x0a\x02/x\x12\x03\x0a\x01k",
	} {
		if o, ok := readOpening([]byte(bad)); ok {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// FuzzOpening: what another replica sends is read without a panic.
func FuzzOpening(f *testing.F) {
	f.Add(openingInfo(request()).Materialize())
	f.Fuzz(func(_ *testing.T, data []byte) { readOpening(data) })
}

func TestSeries_ServesOneRequestAfterTheOther(t *testing.T) {
	url, streams := answering(t)
	p := serial(t, url)
	for range 20 {
		turn := begin(t, p, url)
		if err := answered(turn); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		turn.Finish(true)
	}
	if n := len(streams); n > 10 { // more than one where 20 requests outlast a series
		t.Errorf("%d streams for 20 requests", n)
	}
	if got := <-streams; got != seriesPath {
		t.Errorf("%s was called", got)
	}
}

// An exchange of which the end has not been read yet is read to its end before the series is used again.
func TestSeries_TheRestIsRead(t *testing.T) {
	url, _ := answering(t)
	p := serial(t, url)
	turn := begin(t, p, url)
	if ready, err := turn.Wait(); !ready {
		t.Fatal(err)
	}
	if msg, err := turn.Recv(); err != nil || string(msg.Materialize()) != "x" {
		t.Fatal(err)
	}
	turn.Finish(true)
	eventually(t, "the series is kept", func() bool { return idle(p, url) == 1 })
	if turn = begin(t, p, url); !errors.Is(answered(turn), io.EOF) {
		t.Error("the next one is not served")
	}
	turn.Finish(true)
}

func TestSeries_NotKept(t *testing.T) {
	url, _ := answering(t)
	p := serial(t, url)
	for name, finish := range map[string]func(*Turn){
		"failed":       func(turn *Turn) { turn.Finish(false) },
		"not whole":    func(turn *Turn) { turn.whole = false; turn.Finish(true) },
		"expired":      func(turn *Turn) { turn.series.expire(); turn.Finish(true) },
		"given up":     func(turn *Turn) { turn.disown(); turn.Finish(true) },
		"pool is full": func(turn *Turn) { turn.conn.idle = make([]*series, maxIdle); turn.Finish(true); turn.conn.idle = nil },
	} {
		turn := begin(t, p, url)
		if err := answered(turn); !errors.Is(err, io.EOF) {
			t.Fatal(name, err)
		}
		finish(turn)
		if n := idle(p, url); n != 0 {
			t.Errorf("%s: kept", name)
		}
	}
}

func TestSeries_ExpiresWhileIdle(t *testing.T) {
	url, _ := answering(t)
	p := serial(t, url)
	turn := begin(t, p, url)
	if err := answered(turn); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	s := turn.series
	turn.Finish(true)
	eventually(t, "it expires", func() bool { return idle(p, url) == 0 })
	if p.draining.Wait(); s.stream.Context().Err() == nil {
		t.Error("its stream goes on")
	}
}

// A request that meets the end of its series has not begun; one whose series has ended before takes another one.
func TestSeries_EndsAsARequestComes(t *testing.T) {
	var begun atomic.Int64
	url := liar(t, func(s grpc.ServerStream) error { // one request in each stream
		raw := frame.Raw{}
		if err := s.RecvMsg(&raw); err != nil {
			return err
		}
		raw.Data.Free()
		begun.Add(1)
		return frames(s, rawMessage, rawTrailer)
	})
	p := serial(t, url)
	served, refused := 0, 0
	for range 100 {
		turn := begin(t, p, url)
		err := answered(turn)
		switch {
		case errors.Is(err, io.EOF):
			served++
		case errors.Is(err, ErrRefused):
			refused++
		default:
			t.Fatal(err)
		}
		turn.Finish(errors.Is(err, io.EOF))
	}
	if served == 0 || int(begun.Load()) != served {
		t.Errorf("%d requests begun, %d served, %d refused", begun.Load(), served, refused)
	}
}

func TestSeries_Words(t *testing.T) {
	for name, tt := range map[string]struct {
		say                 func(grpc.ServerStream) error
		refused, lost, over bool
		kind                fault.Kind
	}{
		"ends without a word": {say: func(grpc.ServerStream) error { return nil }, refused: true},
		"no tunnel":           {say: func(s grpc.ServerStream) error { return frames(s, rawNoTunnel) }, refused: true},
		"unauthenticated":     {say: func(grpc.ServerStream) error { return status.Error(codes.Unauthenticated, "no") }, refused: true},
		"unimplemented":       {say: func(grpc.ServerStream) error { return status.Error(codes.Unimplemented, "no") }, refused: true},
		"ready, then all":     {say: func(s grpc.ServerStream) error { return frames(s, rawReady, rawMessage, rawMessage, rawTrailer) }, over: true},
		"nothing to say":      {say: func(s grpc.ServerStream) error { return frames(s, rawTrailer) }, over: true},
		"call's own":          {say: func(s grpc.ServerStream) error { return frames(s, rawMessage, rawError) }, kind: fault.Unavailable},
		"agent lost": {say: func(s grpc.ServerStream) error {
			return errors.Join(frames(s, rawMessage), status.Error(codes.Canceled, "agent disconnected"))
		}, lost: true, kind: fault.Canceled},
		"kas lost":    {say: func(grpc.ServerStream) error { return status.Error(codes.Unavailable, "closing") }, kind: fault.Unavailable},
		"garbage":     {say: func(s grpc.ServerStream) error { return frames(s, rawGarbage) }, kind: fault.InvalidArgument},
		"ready twice": {say: func(s grpc.ServerStream) error { return frames(s, rawReady, rawReady) }, kind: fault.InvalidArgument},
		"header":      {say: func(s grpc.ServerStream) error { return frames(s, rawHeader) }, kind: fault.InvalidArgument},
		"cut off":     {say: func(s grpc.ServerStream) error { return frames(s, rawMessage) }, kind: fault.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			url := liar(t, func(s grpc.ServerStream) error {
				raw := frame.Raw{}
				if err := s.RecvMsg(&raw); err != nil {
					return err
				}
				raw.Data.Free()
				return tt.say(s)
			})
			p := serial(t, url)
			turn := begin(t, p, url)
			err := answered(turn)
			turn.Finish(false)
			if errors.Is(err, ErrRefused) != tt.refused || errors.Is(err, io.EOF) != tt.over || errors.Is(err, httpgrpc.ErrLost) != tt.lost {
				t.Errorf("got %v", err)
			}
			if !tt.refused && !tt.over && fault.KindOf(err) != tt.kind {
				t.Errorf("got %v, kind %s", err, fault.KindOf(err))
			}
			if known := p.conns[url].serial.Load(); known == (name == "unimplemented") {
				t.Errorf("serves series: %t", known)
			}
		})
	}
}

// A replica that does not say that it serves series gets none.
func TestSeries_OnlyWhereOffered(t *testing.T) {
	for _, offers := range []bool{false, true} {
		paths := make(chan string, 10)
		url := liar(t, func(s grpc.ServerStream) error {
			path, _ := grpc.MethodFromServerStream(s)
			md, _ := metadata.FromIncomingContext(s.Context())
			paths <- strings.Join(append(md[metaEager], path), " ")
			if offers {
				if err := s.SetHeader(offer); err != nil {
					return err
				}
			}
			return frames(s, rawReady, rawHeader, rawTrailer)
		})
		p := newPool(t, PoolConfig{Keys: key("k")})
		for range 2 {
			b, err := p.Begin(bounded(t), url, request())
			if err != nil {
				t.Fatal(err)
			}
			if ready, err := b.Wait(); !ready {
				t.Error(err)
			}
			b.Finish(false)
		}
		want := []string{"1 /" + service + "/" + method, "1 /" + service + "/" + method}
		if offers {
			want[1] = seriesPath
		}
		if diff := cmp.Diff(want, []string{<-paths, <-paths}); diff != "" {
			t.Errorf("offers %t: %s", offers, diff)
		}
	}
}

// rawSeries opens a series at the server of a test, by hand.
func rawSeries(t *testing.T, p *Pool, url string) grpc.ClientStream {
	t.Helper()
	c, err := p.acquire(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.release(c) })
	stream, err := c.client.NewStream(bounded(t), bidirectional, seriesPath)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestServer_SeriesRefusals(t *testing.T) {
	url := serve(t, "k")
	p := newPool(t, PoolConfig{Keys: key("k")})
	other, nobody := request(), request()
	other.Method, nobody.AgentID = "Other", 0
	for name, tt := range map[string]struct {
		data mem.BufferSlice
		want codes.Code
	}{
		"garbage": {mem.BufferSlice{mem.SliceBuffer(rawGarbage)}, codes.InvalidArgument}, "no agent": {openingInfo(nobody), codes.InvalidArgument},
		"unknown method": {openingInfo(other), codes.Unimplemented}, "absent agent": {openingInfo(request()), codes.OK},
	} {
		stream := rawSeries(t, p, url)
		if err := stream.SendMsg(&frame.Raw{Data: tt.data}); err != nil {
			t.Fatal(err)
		}
		raw := frame.Raw{}
		err := stream.RecvMsg(&raw)
		if tt.want == codes.OK {
			if err != nil || string(raw.Data.Materialize()) != rawNoTunnel {
				t.Errorf("%s: %q %v", name, raw.Data.Materialize(), err)
			}
			raw.Data.Free()
			if err = stream.RecvMsg(&raw); errors.Is(err, io.EOF) {
				err = nil
			}
		}
		if status.Code(err) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	stream := rawSeries(t, newPool(t, PoolConfig{Keys: key("wrong")}), url)
	if err := stream.RecvMsg(&frame.Raw{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("another secret: %v", err)
	}
}

// Series in which nothing happens do not hold up a server that drains.
func TestServer_DrainEndsIdleSeries(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer(ServerConfig{
		Listener: ln, Keys: key("k"), Registry: tunnel.NewRegistry(tunnel.RegistryConfig{Registerer: prometheus.NewRegistry()}),
		Methods: map[string][]string{service: {method}}, DrainTimeout: time.Hour, Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	p := newPool(t, PoolConfig{Keys: key("k")})
	url := "unix://" + ln.Addr().String()
	idle := rawSeries(t, p, url)
	// Another one on the same connection is answered: the first one has come, too.
	asked := rawSeries(t, p, url)
	if err := asked.SendMsg(&frame.Raw{Data: openingInfo(request())}); err != nil {
		t.Fatal(err)
	}
	raw := frame.Raw{}
	if err := asked.RecvMsg(&raw); err != nil {
		t.Fatal(err)
	}
	raw.Data.Free()
	stopped := time.Now()
	stop()
	if err := idle.RecvMsg(&raw); !errors.Is(err, io.EOF) || time.Since(stopped) > seriesLimit*2/3 {
		t.Errorf("got %v after %s", err, time.Since(stopped))
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-bounded(t).Done():
		t.Error("the server waits")
	}
}

func TestTurns_Begin(t *testing.T) {
	valid, expired := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	for name, tt := range map[string]struct {
		turns *turns
		first bool
		want  bool
	}{
		"first": {&turns{expires: valid}, true, true}, "another": {&turns{expires: valid}, false, true},
		"first, expired meanwhile": {&turns{expires: expired}, true, true}, "another, expired": {&turns{expires: expired}, false, false},
		"first, draining": {&turns{expires: valid, over: true}, true, false},
	} {
		if got := tt.turns.begin(tt.first); got != tt.want || tt.turns.end() == got {
			t.Errorf("%s: begins %t", name, got)
		}
	}
	busy := &turns{expires: valid}
	if !busy.begin(true) || busy.end() || busy.rest() {
		t.Error("a series that is ended while it is busy goes on")
	}
	if old := (&turns{expires: expired}); !old.begin(true) || old.rest() {
		t.Error("a series waits for a request that it must not serve")
	}
}

func TestExpiry(t *testing.T) {
	at := time.Now().Add(tokenLife).Truncate(time.Second)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(at)}).SignedString([]byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]time.Time{"Bearer " + token: at, "Bearer x": {}, "": {}} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", value))
		if got := expiry(ctx); !got.Equal(want) {
			t.Errorf("%q: %v", value, got)
		}
	}
	if !expiry(t.Context()).IsZero() {
		t.Error("no token")
	}
}
