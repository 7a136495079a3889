// Package frame reads and writes protobuf messages that carry bulk bytes by hand, around the buffers they arrived in, so that a
// proxied byte is never copied or reflected over just to be wrapped. Everything else uses the generated code.
//
// Ownership: a mem.BufferSlice given to a Send or Append function belongs to the callee from then on; a mem.BufferSlice
// received belongs to the receiver, who frees it exactly once.
package frame

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Raw is one serialized gRPC message. Sent, it gives its buffers away; received, it holds a reference the receiver must free.
type Raw struct{ Data mem.BufferSlice }

// Codec is the "proto" codec with one addition: *Raw passes through as it is. Give it to grpc.ForceServerCodecV2 and
// grpc.ForceCodecV2.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Name is the content-subtype. It stays "proto", the wire does not change.
func (Codec) Name() string { return "proto" }

// Marshal serializes v, a *Raw or a proto.Message.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Raw:
		return m.Data, nil
	case proto.Message:
		size := proto.Size(m)
		if mem.IsBelowBufferPoolingThreshold(size) {
			buf, err := proto.Marshal(m)
			if err != nil {
				return nil, err
			}
			return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
		}
		pool := mem.DefaultBufferPool()
		buf := pool.Get(size)
		if _, err := (proto.MarshalOptions{}).MarshalAppend((*buf)[:0], m); err != nil {
			pool.Put(buf)
			return nil, err
		}
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
	default:
		return nil, fmt.Errorf("frame: cannot marshal %T", v)
	}
}

// Unmarshal fills v, a *Raw or a proto.Message. A *Raw keeps a reference to data.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *Raw:
		data.Ref()
		m.Data = data
		return nil
	case proto.Message:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return proto.Unmarshal(buf.ReadOnlyData(), m)
	default:
		return fmt.Errorf("frame: cannot unmarshal into %T", v)
	}
}
