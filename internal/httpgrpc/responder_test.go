package httpgrpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/frame"
)

const waitLimit = time.Minute

// fakeCall is a call seen from the requester: it sends frames, reads frames and ends the stream.
type fakeCall struct {
	t      *testing.T
	in     chan mem.BufferSlice
	out    chan mem.BufferSlice
	ctx    context.Context
	abort  context.CancelFunc
	eof    chan struct{}
	once   sync.Once
	result chan error
}

type performerFunc func(req *http.Request, extra *anypb.Any) (*http.Response, error)

func (f performerFunc) RoundTrip(req *http.Request, extra *anypb.Any) (*http.Response, error) {
	return f(req, extra)
}

// startCall serves one call. The stream ends, as a real one would, after Serve has returned.
func startCall(t *testing.T, p performerFunc) *fakeCall {
	t.Helper()
	return startCallWith(t, context.Background(), p)
}

// startCallWith is startCall with a context that may end while the stream goes on.
func startCallWith(t *testing.T, serving context.Context, p performerFunc) *fakeCall {
	t.Helper()
	r, err := NewResponder(ResponderConfig{Performer: p, MaxHeaderBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	ctx, abort := context.WithCancel(context.Background())
	c := &fakeCall{
		t: t, in: make(chan mem.BufferSlice), out: make(chan mem.BufferSlice, 1024), ctx: ctx, abort: abort,
		eof: make(chan struct{}), result: make(chan error, 1),
	}
	go func() {
		both, end := context.WithCancelCause(ctx)
		defer end(nil)
		defer context.AfterFunc(serving, func() { end(context.Cause(serving)) })()
		err := r.Serve(both, c)
		close(c.out)
		c.result <- err
		abort()
	}()
	t.Cleanup(abort)
	return c
}

func (c *fakeCall) Recv() (mem.BufferSlice, error) {
	select {
	case m := <-c.in:
		return m, nil
	case <-c.eof:
		return nil, io.EOF
	case <-c.ctx.Done():
		return nil, status.Error(codes.Canceled, "stream is over")
	}
}

func (c *fakeCall) Ahead() {}

func (c *fakeCall) Send(m mem.BufferSlice) error {
	select {
	case c.out <- m:
		return nil
	case <-c.ctx.Done():
		return status.Error(codes.Canceled, "stream is over")
	}
}

func (c *fakeCall) send(m mem.BufferSlice) {
	c.t.Helper()
	select {
	case c.in <- m:
	case <-c.ctx.Done():
	case <-time.After(waitLimit):
		c.t.Fatal("the responder does not receive")
	}
}

func (c *fakeCall) halfClose() { c.once.Do(func() { close(c.eof) }) }

// header sends a header frame; more pairs of header names and values may follow.
func (c *fakeCall) header(method, path string, length *int64, header ...string) {
	c.t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	c.send(marshal(c.t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request:       &prototool.HttpRequest{Method: method, UrlPath: path, Header: ToKeyValues(h)},
		ContentLength: length,
	}}}))
}

func (c *fakeCall) data(s string)    { c.t.Helper(); c.send(payload(frame.HTTPData, s)) }
func (c *fakeCall) upgrade(s string) { c.t.Helper(); c.send(payload(frame.HTTPUpgradeData, s)) }
func (c *fakeCall) trailer()         { c.t.Helper(); c.send(frame.Empty(frame.HTTPTrailer)) }

func payload(member protowire.Number, s string) mem.BufferSlice {
	m := &grpctool.HttpRequest{}
	switch member {
	case frame.HTTPData:
		m.Message = &grpctool.HttpRequest_Data_{Data: &grpctool.HttpRequest_Data{Data: []byte(s)}}
	default:
		m.Message = &grpctool.HttpRequest_UpgradeData_{UpgradeData: &grpctool.HttpRequest_UpgradeData{Data: []byte(s)}}
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return mem.BufferSlice{mem.SliceBuffer(raw)}
}

func marshal(t *testing.T, m proto.Message) mem.BufferSlice {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return mem.BufferSlice{mem.SliceBuffer(raw)}
}

// next reads one response frame with the generated code; nil at the end of the call.
func (c *fakeCall) next() *grpctool.HttpResponse {
	c.t.Helper()
	select {
	case raw, ok := <-c.out:
		if !ok {
			return nil
		}
		defer raw.Free()
		m := &grpctool.HttpResponse{}
		if err := proto.Unmarshal(raw.Materialize(), m); err != nil {
			c.t.Fatal(err)
		}
		return m
	case <-time.After(waitLimit):
		c.t.Fatal("no response frame")
		return nil
	}
}

// status waits for the end of the call.
func (c *fakeCall) status() *status.Status {
	c.t.Helper()
	select {
	case err := <-c.result:
		return status.Convert(err)
	case <-time.After(waitLimit):
		c.t.Fatal("the call does not end")
		return nil
	}
}

// answer is a response read to its trailer.
type answer struct {
	Code    int32
	Status  string
	Body    string
	Trailer bool
}

func (c *fakeCall) answer() answer {
	c.t.Helper()
	var a answer
	for m := c.next(); m != nil; m = c.next() {
		switch v := m.Message.(type) {
		case *grpctool.HttpResponse_Header_:
			a.Code, a.Status = v.Header.Response.StatusCode, v.Header.Response.Status
		case *grpctool.HttpResponse_Data_:
			a.Body += string(v.Data.Data)
		case *grpctool.HttpResponse_Trailer_:
			a.Trailer = true
			return a
		default:
			c.t.Fatalf("unexpected frame %T", v)
		}
	}
	return a
}

func (c *fakeCall) wantStatus(code codes.Code, text string) {
	c.t.Helper()
	st := c.status()
	if st.Code() != code || !strings.Contains(st.Message(), text) {
		c.t.Fatalf("status %v %q, want %v %q", st.Code(), st.Message(), code, text)
	}
}

func response(code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Header: http.Header{"Content-Type": {"text/plain"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

func TestResponder_NoBody(t *testing.T) {
	for name, length := range map[string]*int64{"zero": proto.Int64(0), "absent, as old requesters send it": nil} {
		t.Run(name, func(t *testing.T) {
			c := startCall(t, func(req *http.Request, extra *anypb.Any) (*http.Response, error) {
				if req.Body != http.NoBody || req.ContentLength != 0 {
					t.Errorf("body %T of %d bytes", req.Body, req.ContentLength)
				}
				if got := req.Method + " " + req.URL.String() + " " + req.Header.Get("Accept"); got != "GET /api/v1 text/x" {
					t.Error(got)
				}
				return response(200, "hello"), nil
			})
			c.header("GET", "/api/v1", length, "Accept", "text/x")
			c.trailer()
			c.halfClose()
			if diff := cmp.Diff(answer{200, "OK", "hello", true}, c.answer()); diff != "" {
				t.Error(diff)
			}
			c.wantStatus(codes.OK, "")
		})
	}
}

func TestResponder_QueryAndExtra(t *testing.T) {
	extra, err := anypb.New(&prototool.Values{Value: [][]byte{[]byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	c := startCall(t, func(req *http.Request, got *anypb.Any) (*http.Response, error) {
		if req.URL.RawQuery != "a=1&a=2&b=+%26" || !proto.Equal(extra, got) {
			t.Errorf("query %q, extra %v", req.URL.RawQuery, got)
		}
		return response(204, ""), nil
	})
	c.send(marshal(t, &grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{Method: "GET", UrlPath: "/", Query: ValuesToKeyValues(map[string][]string{
			"b": {" &"}, "a": {"1", "2"},
		})},
		Extra: extra, ContentLength: proto.Int64(0),
	}}}))
	c.trailer()
	c.halfClose()
	if got := c.answer(); got.Code != 204 || got.Body != "" {
		t.Error(got)
	}
}

func TestResponder_Body(t *testing.T) {
	for name, tc := range map[string]struct{ length, want int64 }{"chunked": {-1, -1}, "length": {9, 9}, "absent": {-2, -1}} {
		t.Run(name, func(t *testing.T) {
			c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
				body, err := io.ReadAll(req.Body)
				if err != nil || req.ContentLength != tc.want {
					t.Errorf("content length %d, %v", req.ContentLength, err)
				}
				return response(201, string(body)), nil
			})
			length := &tc.length
			if tc.length == -2 {
				length = nil
			}
			c.header("POST", "/x", length)
			c.data("abc")
			c.data("")
			c.data("defghi")
			c.trailer()
			c.halfClose()
			if diff := cmp.Diff(answer{201, "Created", "abcdefghi", true}, c.answer()); diff != "" {
				t.Error(diff)
			}
			c.wantStatus(codes.OK, "")
		})
	}
}

// The answer begins, and is echoed piece by piece, before the request body has ended.
func TestResponder_FullDuplex(t *testing.T) {
	c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Status: "200 OK", Body: req.Body, ContentLength: -1}, nil
	})
	c.header("POST", "/echo", proto.Int64(-1))
	if m := c.next(); m.GetHeader() == nil {
		t.Fatalf("got %v", m)
	}
	for _, piece := range []string{"one", "two"} {
		c.data(piece)
		if m := c.next(); string(m.GetData().GetData()) != piece {
			t.Fatalf("got %v", m)
		}
	}
	c.trailer()
	c.halfClose()
	if m := c.next(); m.GetTrailer() == nil {
		t.Fatalf("got %v", m)
	}
	c.wantStatus(codes.OK, "")
}

// The cluster answers and stops reading: a requester that sends everything first must be able to, and gets the answer.
func TestResponder_BodyNotRead(t *testing.T) {
	c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
		_ = req.Body.Close()
		return response(413, "too large"), nil
	})
	c.header("POST", "/x", proto.Int64(-1))
	for range 100 {
		c.data(strings.Repeat("x", 1<<15))
	}
	if diff := cmp.Diff(answer{413, "Request Entity Too Large", "too large", true}, c.answer()); diff != "" {
		t.Error(diff)
	}
	c.data("more")
	c.trailer()
	c.halfClose()
	c.wantStatus(codes.OK, "")
}

func TestResponder_LargeAnswer(t *testing.T) {
	want := strings.Repeat("0123456789abcdef", 1<<14)
	c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) { return response(200, want), nil })
	c.header("GET", "/x", proto.Int64(0))
	c.trailer()
	c.halfClose()
	var got strings.Builder
	for m := c.next(); m.GetTrailer() == nil; m = c.next() {
		if n := len(m.GetData().GetData()); n > maxChunk {
			t.Fatalf("frame of %d bytes", n)
		}
		got.Write(m.GetData().GetData())
	}
	if got.String() != want {
		t.Error("body differs")
	}
}

func TestResponder_Misbehaving(t *testing.T) {
	length := func(n int64) *int64 { return &n }
	for name, tc := range map[string]struct {
		send func(c *fakeCall)
		code codes.Code
		text string
	}{
		"nothing":             {func(c *fakeCall) { c.halfClose() }, codes.InvalidArgument, "before its header"},
		"no member":           {func(c *fakeCall) { c.send(mem.BufferSlice{mem.SliceBuffer{}}) }, codes.InvalidArgument, "no member"},
		"unknown member":      {func(c *fakeCall) { c.send(frame.Empty(9)) }, codes.InvalidArgument, "no member"},
		"garbage":             {func(c *fakeCall) { c.send(mem.BufferSlice{mem.SliceBuffer("\xff\xff\xff")}) }, codes.InvalidArgument, "malformed"},
		"starts with data":    {func(c *fakeCall) { c.data("x") }, codes.InvalidArgument, "not with header"},
		"starts with trailer": {func(c *fakeCall) { c.trailer() }, codes.InvalidArgument, "not with header"},
		"header twice": {func(c *fakeCall) {
			c.header("GET", "/", length(0))
			c.header("GET", "/", length(0))
		}, codes.InvalidArgument, "header before its trailer"},
		"header twice with body": {func(c *fakeCall) {
			c.header("GET", "/", length(-1))
			c.header("GET", "/", length(-1))
		}, codes.InvalidArgument, "header before its trailer"},
		"no member after header": {func(c *fakeCall) {
			c.header("POST", "/", length(-1))
			c.send(mem.BufferSlice{mem.SliceBuffer{}})
		}, codes.InvalidArgument, "no member"},
		"data although none was promised": {func(c *fakeCall) {
			c.header("POST", "/", length(0))
			c.data("x")
		}, codes.Internal, "unexpected HttpRequest_Data message received"},
		"data after trailer": {func(c *fakeCall) {
			c.header("POST", "/", length(-1))
			c.trailer()
			c.data("x")
		}, codes.InvalidArgument, "data after its trailer"},
		"upgradeData without upgrade": {func(c *fakeCall) {
			c.header("GET", "/", length(0))
			c.trailer()
			c.upgrade("x")
		}, codes.Internal, "UpgradeData"},
		"half-close before trailer": {func(c *fakeCall) {
			c.header("POST", "/", length(-1))
			c.data("x")
			c.halfClose()
		}, codes.InvalidArgument, "before its trailer"},
		"oversize header": {func(c *fakeCall) { c.header("GET", "/"+strings.Repeat("x", 5000), length(0)) }, codes.InvalidArgument, "at most 4096"},
		"no method":       {func(c *fakeCall) { c.header("", "/", length(0)) }, codes.InvalidArgument, "no method"},
		"bad method":      {func(c *fakeCall) { c.header("GET /x HTTP/1.1\r\n", "/", length(0)) }, codes.InvalidArgument, "method"},
		"no path":         {func(c *fakeCall) { c.header("GET", "", length(0)) }, codes.InvalidArgument, "slash"},
		"no slash":        {func(c *fakeCall) { c.header("GET", "host/x", length(0)) }, codes.InvalidArgument, "slash"},
		"bad length":      {func(c *fakeCall) { c.header("GET", "/", length(-2)) }, codes.InvalidArgument, "content_length"},
		"bad value":       {func(c *fakeCall) { c.header("GET", "/", length(0), "X", "a\r\nB: c") }, codes.InvalidArgument, "header"},
		"no request": {func(c *fakeCall) {
			c.send(frame.Empty(frame.HTTPHeader))
		}, codes.InvalidArgument, "no request"},
		"gone": {func(c *fakeCall) {
			c.header("POST", "/", length(-1))
			c.data("x")
			c.abort()
		}, codes.Canceled, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCall(t, func(req *http.Request, _ *anypb.Any) (*http.Response, error) {
				_, err := io.Copy(io.Discard, req.Body)
				return nil, err
			})
			tc.send(c)
			c.wantStatus(tc.code, tc.text)
		})
	}
}

func TestResponder_Errors(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for name, tc := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"status":   {status.Error(codes.InvalidArgument, "nested"), codes.InvalidArgument, "nested"},
		"fault":    {fault.New(fault.InvalidArgument, fault.Agent, "agent: no"), codes.InvalidArgument, "agent: no"},
		"dial":     {refused, codes.Unavailable, "gRPC -> HTTP: dial tcp: connection refused"},
		"canceled": {context.Canceled, codes.Canceled, "gRPC -> HTTP: context canceled"},
		"deadline": {context.DeadlineExceeded, codes.DeadlineExceeded, "gRPC -> HTTP: context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) { return nil, tc.err })
			c.header("GET", "/", proto.Int64(0))
			c.trailer()
			c.halfClose()
			c.wantStatus(tc.code, tc.text)
		})
	}
}

// brokenBody fails after its content.
type brokenBody struct{ bytes.Buffer }

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.Buffer.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("connection reset by peer")
	}
	return n, err
}

func (b *brokenBody) Close() error { return nil }

func TestResponder_ClusterDiesMidBody(t *testing.T) {
	c := startCall(t, func(*http.Request, *anypb.Any) (*http.Response, error) {
		body := &brokenBody{}
		body.WriteString("half")
		return &http.Response{StatusCode: 200, Body: body, ContentLength: 8}, nil
	})
	c.header("GET", "/", proto.Int64(0))
	c.trailer()
	c.halfClose()
	if got := c.answer(); got.Trailer || got.Body != "half" {
		t.Error(got)
	}
	c.wantStatus(codes.Canceled, "gRPC -> HTTP: read HTTP response body: connection reset by peer")
}
