package frame_test

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/frame"
)

// cut splits data into buffers of n bytes, as it may arrive from the network.
func cut(data []byte, n int) mem.BufferSlice {
	var out mem.BufferSlice
	for len(data) > 0 {
		k := min(max(n, 1), len(data))
		out = append(out, mem.SliceBuffer(bytes.Clone(data[:k])))
		data = data[k:]
	}
	return out
}

func TestWrapIsTheGeneratedEncoding(t *testing.T) {
	for _, size := range []int{0, 1, 127, 128, 32 << 10, 1 << 20} {
		payload := bytes.Repeat([]byte{'x'}, size)
		want, err := proto.Marshal(&grpctool.HttpRequest{Message: &grpctool.HttpRequest_Data_{Data: &grpctool.HttpRequest_Data{Data: payload}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := frame.Wrap(frame.HTTPData, cut(payload, 4096)).Materialize(); !bytes.Equal(got, want) {
			t.Errorf("size %d: wrapped data differs from the generated code's", size)
		}
	}
}

func TestWrapTwice(t *testing.T) {
	inner := frame.Wrap(frame.HTTPData, cut([]byte("hello"), 2))
	outer := frame.Wrap(frame.ConnectResponseMessage, inner)
	got := &reversetunnel.ConnectResponse{}
	if err := frame.Unmarshal(outer, got); err != nil {
		t.Fatal(err)
	}
	req := &grpctool.HttpRequest{}
	if err := proto.Unmarshal(got.GetMessage().GetData(), req); err != nil {
		t.Fatal(err)
	}
	if string(req.GetData().GetData()) != "hello" {
		t.Errorf("got %q", req.GetData().GetData())
	}
}

func TestEmpty(t *testing.T) {
	req := &grpctool.HttpRequest{}
	if err := frame.Unmarshal(frame.Empty(frame.HTTPTrailer), req); err != nil {
		t.Fatal(err)
	}
	if req.GetTrailer() == nil {
		t.Error("no trailer")
	}
}

func TestMember(t *testing.T) {
	unknown := protowire.AppendString(protowire.AppendTag(nil, 99, protowire.BytesType), "later version")
	data := frame.Wrap(frame.HTTPData, cut([]byte("abc"), 1)).Materialize()
	tests := []struct {
		name string
		raw  []byte
		want protowire.Number
		err  error
	}{
		{"data", data, frame.HTTPData, nil},
		{"trailer", frame.Empty(frame.HTTPTrailer).Materialize(), frame.HTTPTrailer, nil},
		{"empty message", nil, 0, frame.ErrNoMember},
		{"unknown field only", unknown, 0, frame.ErrNoMember},
		{"unknown field first", append(bytes.Clone(unknown), data...), frame.HTTPData, nil},
		{"last one wins", append(bytes.Clone(data), frame.Empty(frame.HTTPTrailer).Materialize()...), frame.HTTPTrailer, nil},
		{"truncated", data[:len(data)-1], 0, frame.ErrMalformed},
		{"not protobuf", []byte{0xff, 0xff}, 0, frame.ErrMalformed},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			for _, n := range []int{1, 3, 1 << 20} {
				got, err := frame.Member(cut(tc.raw, n), frame.HTTPUpgradeData)
				if got != tc.want || !errors.Is(err, tc.err) {
					t.Errorf("cut by %d: got member %d, %v; want %d, %v", n, got, err, tc.want, tc.err)
				}
			}
		})
	}
}

// FuzzUnwrap holds the hand-written reader against the generated code: on any input, cut anywhere, they agree.
func FuzzUnwrap(f *testing.F) {
	f.Add(frame.Wrap(frame.HTTPData, cut([]byte("abc"), 2)).Materialize(), 1)
	f.Add(frame.Wrap(frame.HTTPData, nil).Materialize(), 7)
	f.Add([]byte("\x12\x05\x0a\x03abc\x12\x03\x0a\x01z"), 3)
	f.Add([]byte("\x12\x07\x10\x01\x0a\x03abc"), 100)
	f.Add([]byte("\x12\x80\x80\x00\x1a\x00"), 2)
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		want := &grpctool.HttpRequest{}
		wantErr := proto.Unmarshal(raw, want)
		member, err := frame.Member(cut(raw, n), frame.HTTPUpgradeData)
		if wantErr != nil {
			return // generated code also refuses what is wrong inside members that Member does not look into
		}
		switch want.Message.(type) {
		case nil:
			if err == nil {
				t.Fatalf("member %d, the generated code finds none", member)
			}
		case *grpctool.HttpRequest_Data_:
			if err != nil || member != frame.HTTPData {
				t.Fatalf("member %d, %v; the generated code finds data", member, err)
			}
			payload, err := frame.Unwrap(cut(raw, n), frame.HTTPData)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(payload.Materialize(), want.GetData().GetData()) {
				t.Fatalf("payload %x, want %x", payload.Materialize(), want.GetData().GetData())
			}
		}
	})
}

// FuzzWrap holds the hand-written writer against the generated code.
func FuzzWrap(f *testing.F) {
	f.Add([]byte("hello"), 2)
	f.Fuzz(func(t *testing.T, payload []byte, n int) {
		got := &reversetunnel.ConnectRequest{}
		if err := frame.Unmarshal(frame.Wrap(frame.ConnectMessage, cut(payload, n)), got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.GetMessage().GetData(), payload) {
			t.Fatal("payload differs")
		}
	})
}

func BenchmarkWrap32K(b *testing.B) {
	payload := mem.SliceBuffer(make([]byte, 32<<10))
	b.SetBytes(32 << 10)
	b.ReportAllocs()
	for b.Loop() {
		frame.Wrap(frame.ConnectMessage, frame.Wrap(frame.HTTPData, mem.BufferSlice{payload})).Free()
	}
}
