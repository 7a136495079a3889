package httpgrpc

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// FuzzMarshalHead holds what is written by hand against the generated code.
func FuzzMarshalHead(f *testing.F) {
	f.Add("GET", "/api", "Accept", "a, b", "Accept", "", "q", "1", "type.googleapis.com/x", []byte("extra"), int64(0), true)
	f.Add("", "", "", "", "accept", "\xff", "\xff", "", "", []byte(nil), int64(-1), true)
	f.Add("POST", "/", "X-\xff", "v", "Y", "\x00", "", "", "", []byte(nil), int64(1<<40), false)
	f.Fuzz(func(t *testing.T, method, path, name1, value1, name2, value2, key, query, extraType string, extra []byte, length int64, hasExtra bool) {
		x := &Exchange{Method: method, Path: path, Header: http.Header{}, Query: url.Values{key: {query, value1}}, ContentLength: length}
		x.Header[name1] = append(x.Header[name1], value1)
		x.Header[name2] = append(x.Header[name2], value2, value1)
		if hasExtra {
			x.Extra = &anypb.Any{TypeUrl: extraType, Value: extra}
		}
		compareHeads(t, x)
	})
}

func compareHeads(t *testing.T, x *Exchange) {
	t.Helper()
	want, wantErr := marshalAnyHead(x)
	got, err := marshalHead(x)
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("by hand %v, the generated code says %v", err, wantErr)
	}
	if err != nil {
		return
	}
	a, b := &grpctool.HttpRequest{}, &grpctool.HttpRequest{}
	if err := frame.Unmarshal(want, a); err != nil {
		t.Fatal(err)
	}
	if err := frame.Unmarshal(got, b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b, protocmp.Transform()); diff != "" {
		t.Fatal(diff)
	}
	want.Free()
	got.Free()
}

func TestMarshalHead_ManyFields(t *testing.T) {
	x := &Exchange{Method: "GET", Path: "/", Header: http.Header{}, Query: url.Values{"empty": nil}}
	for i := range 40 {
		x.Header["X-"+string(rune('A'+i))] = make([]string, i%3)
	}
	compareHeads(t, x)
	x.Extra = &anypb.Any{TypeUrl: "t"}
	x.Extra.ProtoReflect().SetUnknown([]byte("\xa0\x06\x01"))
	compareHeads(t, x)
}

// FuzzReadHead holds what is read by hand against the generated code: on any input, cut anywhere, they agree.
func FuzzReadHead(f *testing.F) {
	head := func(r *prototool.HttpResponse) []byte {
		raw, err := proto.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{Response: r}}})
		if err != nil {
			f.Fatal(err)
		}
		return raw
	}
	pair := func(key string, values ...string) *prototool.KeyValues {
		kv := &prototool.KeyValues{Key: []byte(key), Value: &prototool.Values{}}
		for _, v := range values {
			kv.Value.Value = append(kv.Value.Value, []byte(v))
		}
		return kv
	}
	plain := head(&prototool.HttpResponse{StatusCode: 200, Status: "200 OK", Header: []*prototool.KeyValues{
		pair("Content-Type", "a"), pair("X-A", "1", "2", ""), pair("x-a", "3"), pair("X-None"),
	}})
	f.Add(plain, 5)
	f.Add(append(plain, plain...), 3)
	f.Add(head(&prototool.HttpResponse{Header: []*prototool.KeyValues{pair("bad name", "x")}}), 1)
	f.Add(head(&prototool.HttpResponse{Header: []*prototool.KeyValues{pair("X", "bad\r\nvalue")}}), 1)
	f.Add(head(&prototool.HttpResponse{Header: []*prototool.KeyValues{{Key: []byte("X")}, {}}}), 100)
	f.Add(head(nil), 1)
	f.Add([]byte("\x0a\x06\x0a\x04\x10\xff\x12\x00"), 2)
	f.Add([]byte("\x0a\x0a\x0a\x08\x08\xff\xff\xff\xff\xff\xff\x01"), 2)
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		if member, err := frame.Member(mem.BufferSlice{mem.SliceBuffer(raw)}, frame.HTTPUpgradeData); err != nil || member != frame.HTTPHeader {
			return
		}
		msg := inPieces(raw, n)
		want, wantErr := readAnyHead(msg)
		got, err := readHead(msg)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("by hand %v, the generated code says %v", err, wantErr)
		}
		if err == nil && (got.status != want.status || !cmp.Equal(got.header, want.header)) {
			t.Fatalf("by hand %+v, the generated code says %+v", got, want)
		}
	})
}

// What a peer sends every day must not need the generated code.
func TestReadHead_Plain(t *testing.T) {
	raw, err := proto.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
		Response: &prototool.HttpResponse{StatusCode: 200, Status: "200 OK", Header: ToKeyValues(http.Header{"Content-Type": {"a"}, "X-A": {"1", "2"}})},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := readPlainHead(raw)
	if want := (http.Header{"Content-Type": {"a"}, "X-A": {"1", "2"}}); err != nil || h.status != 200 || !cmp.Equal(h.header, want) {
		t.Errorf("%+v, %v", h, err)
	}
	if !plain(&Exchange{Method: "GET", Path: "/", Header: http.Header{"Accept": {"a"}}}) {
		t.Error("a usual request is not plain")
	}
}

// inPieces is a message that has arrived in buffers of n bytes.
func inPieces(raw []byte, n int) mem.BufferSlice {
	msg := mem.BufferSlice{}
	for rest := raw; len(rest) > 0; {
		k := min(max(n, 1), len(rest))
		msg, rest = append(msg, mem.SliceBuffer(rest[:k])), rest[k:]
	}
	return msg
}
