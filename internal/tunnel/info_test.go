package tunnel

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/frame"
)

// What kas sends every day must not need the generated code.
func TestReadPlainInfo(t *testing.T) {
	meta := metadata.MD{"traceparent": {"00-1-2-00"}, "a": {"1", "2", ""}}
	method, got, ok := readPlainInfo(requestInfo("/s/m", meta, 3).Materialize())
	if !ok {
		t.Fatal("not plain")
	}
	if method != "/s/m" {
		t.Errorf("method %q", method)
	}
	meta[MetaWaiting], meta[MetaAgain] = []string{"3"}, []string{again}
	if diff := cmp.Diff(meta, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadRequestInfo_Others(t *testing.T) {
	for name, msg := range map[string]mem.BufferSlice{
		"empty": nil, "message": frame.Wrap(frame.ConnectResponseMessage, nil), "close": frame.Empty(frame.ConnectCloseSend),
		"malformed": {mem.SliceBuffer("\x0a\x05x")},
	} {
		if method, meta, ok := readRequestInfo(msg); ok {
			t.Errorf("%s: read %q, %v", name, method, meta)
		}
	}
}

// FuzzReadRequestInfo holds what is read by hand against the generated code.
func FuzzReadRequestInfo(f *testing.F) {
	usual := requestInfo("/s/m", metadata.MD{"a": {"1", "2"}, "b": {""}}, 0).Materialize()
	f.Add(usual)
	f.Add(append(usual, usual...))
	f.Add(append(usual, frame.Empty(frame.ConnectCloseSend).Materialize()...))
	f.Add([]byte("\x0a\x00"))
	f.Add([]byte("\x0a\x03\x0a\x01\xff"))
	f.Add([]byte("\x0a\x07\x12\x05\x0a\x01A\x12\x00"))
	f.Add([]byte("\x0a\x08\x12\x03\x0a\x01a\x0a\x01m"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		msg := mem.BufferSlice{mem.SliceBuffer(raw)}
		wantMethod, wantMeta, wantOK := readAnyInfo(msg)
		method, meta, ok := readRequestInfo(msg)
		if ok != wantOK || method != wantMethod || !cmp.Equal(meta, wantMeta) {
			t.Fatalf("by hand %q, %v, %v; the generated code says %q, %v, %v", method, meta, ok, wantMethod, wantMeta, wantOK)
		}
	})
}
