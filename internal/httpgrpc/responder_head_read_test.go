package httpgrpc

import (
	"bytes"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/internal/frame"
)

func usualRequest() *Exchange {
	return &Exchange{
		Method: "GET", Path: "/api/v1/pods", ContentLength: 0,
		Header: http.Header{"Accept": {"a", "b", ""}, "User-Agent": {"kubectl"}}, Query: url.Values{"limit": {"500", ""}, "x": {"\xff"}},
		Extra: &anypb.Any{TypeUrl: "type.googleapis.com/x", Value: []byte("extra")},
	}
}

// What requesters send every day must not need the generated code.
func TestReadRequestHead_Plain(t *testing.T) {
	x := usualRequest()
	msg, err := marshalHead(x)
	if err != nil {
		t.Fatal(err)
	}
	h := &requestHead{}
	if !h.readPlain(msg.Materialize()) {
		t.Fatal("not plain")
	}
	if !h.present || h.method != x.Method || h.path != x.Path || h.length == nil || *h.length != 0 {
		t.Errorf("got %+v", h)
	}
	if diff := cmp.Diff(x.Header, h.header) + cmp.Diff(x.Query, h.query) + cmp.Diff(x.Extra, h.extra, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// FuzzReadRequestHead holds what is read by hand against the generated code: on any input, cut anywhere, they agree.
func FuzzReadRequestHead(f *testing.F) {
	for _, x := range []*Exchange{
		usualRequest(),
		{Method: "POST", Path: "/", ContentLength: -1},
		{Method: "\xff", Path: "/", Header: http.Header{"X": {"\r\n"}}},
		{Header: http.Header{"bad name": {"x"}}, Extra: &anypb.Any{}},
		{Header: http.Header{"X-None": {}}, Query: url.Values{"": {"y"}}},
	} {
		for _, marshal := range []func(*Exchange) (mem.BufferSlice, error){marshalHead, marshalAnyHead} {
			if msg, err := marshal(x); err == nil {
				raw := msg.Materialize()
				f.Add(raw, 5)
				f.Add(append(bytes.Clone(raw), raw...), 3)
			}
		}
	}
	f.Add([]byte("\x0a\x05\x0a\x03\x0a\x01\xff"), 1)
	f.Add([]byte("\x0a\x00"), 1)
	f.Add([]byte("\x0a\x02\x0a\x00"), 1)
	f.Add([]byte("\x0a\x04\x0a\x00\x12\x00"), 1)
	f.Add([]byte("\x0a\x06\x0a\x00\x18\x01\x18\x02"), 1)
	f.Add([]byte("\x0a\x06\x0a\x04\x0a\x00\x1a\x00"), 1)
	f.Add([]byte("\x0a\x08\x0a\x06\x12\x04\x0a\x00\x12\x00"), 1)
	f.Add([]byte("\x0a\x08\x0a\x06\x1a\x01/\x0a\x01G"), 1)
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		if member, err := frame.Member(mem.BufferSlice{mem.SliceBuffer(raw)}, frame.HTTPUpgradeData); err != nil || member != frame.HTTPHeader {
			return
		}
		msg := inPieces(raw, n)
		want, wantErr := readAnyRequestHead(msg)
		got, err := readRequestHead(msg)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("by hand %v, the generated code says %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if (got.headerErr != nil) != (want.headerErr != nil) {
			t.Fatalf("by hand %v, the generated code says %v", got.headerErr, want.headerErr)
		}
		got.headerErr, want.headerErr = nil, nil
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(requestHead{}), protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkReadRequestHead(b *testing.B) {
	x := usualRequest()
	x.Header = http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"kubectl/v1.36"}, "X-Forwarded-For": {"10.0.0.1"},
		"X-Request-Id": {"01JD0000000000000000000000"}, "Via": {"1.1 kas"},
	}
	msg, err := marshalHead(x)
	if err != nil {
		b.Fatal(err)
	}
	for name, read := range map[string]func(mem.BufferSlice) (*requestHead, error){"hand": readRequestHead, "generated": readAnyRequestHead} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := read(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
