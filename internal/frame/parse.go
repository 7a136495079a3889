package frame

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// fastScan is how many leading bytes hold the prefix of a bulk message.
const fastScan = maxPrefix

// Member says which member of a oneof message is set, without reading its contents. As protobuf demands, the last one wins.
// It fails with ErrNoMember (also when only unknown fields are present) or ErrMalformed. known is the largest member number.
func Member(msg mem.BufferSlice, known protowire.Number) (protowire.Number, error) {
	member, _, _, err := locate(msg, known)
	return member, err
}

// Unwrap returns the payload of a bulk member {member: {1: payload}} as a new slice sharing msg's buffers. It consumes msg.
// Anything but the plain encoding (unknown fields, repeated members) is read by copying, with protobuf's rules.
func Unwrap(msg mem.BufferSlice, member protowire.Number) (mem.BufferSlice, error) {
	var head [fastScan]byte
	h := head[:peek(msg, head[:])]
	total := msg.Len()
	if num, typ, n := protowire.ConsumeTag(h); n > 0 && num == member && typ == protowire.BytesType {
		if inner, m := protowire.ConsumeVarint(h[n:]); m > 0 && inner == uint64(total-n-m) {
			at := n + m
			if inner == 0 {
				msg.Free()
				return nil, nil
			}
			if num, typ, n := protowire.ConsumeTag(h[at:]); n > 0 && num == dataField && typ == protowire.BytesType {
				if size, m := protowire.ConsumeVarint(h[at+n:]); m > 0 && size == uint64(total-at-n-m) {
					return skip(msg, at+n+m), nil
				}
			}
		}
	}
	return unwrapSlow(msg, member)
}

// unwrapSlow handles every legal encoding.
func unwrapSlow(msg mem.BufferSlice, member protowire.Number) (mem.BufferSlice, error) {
	flat := msg.Materialize()
	msg.Free()
	var payload []byte
	for len(flat) > 0 {
		num, typ, n := protowire.ConsumeTag(flat)
		if n < 0 {
			return nil, ErrMalformed
		}
		m := protowire.ConsumeFieldValue(num, typ, flat[n:])
		if m < 0 {
			return nil, ErrMalformed
		}
		if num == member && typ == protowire.BytesType {
			inner, _ := protowire.ConsumeBytes(flat[n:])
			for len(inner) > 0 {
				num, typ, n := protowire.ConsumeTag(inner)
				if n < 0 {
					return nil, ErrMalformed
				}
				m := protowire.ConsumeFieldValue(num, typ, inner[n:])
				if m < 0 {
					return nil, ErrMalformed
				}
				if num == dataField && typ == protowire.BytesType {
					payload, _ = protowire.ConsumeBytes(inner[n:])
				}
				inner = inner[n+m:]
			}
		}
		flat = flat[n+m:]
	}
	if len(payload) == 0 {
		return nil, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(payload)}, nil
}

// locate finds the last known length-delimited field, its offset and its length.
func locate(msg mem.BufferSlice, known protowire.Number) (member protowire.Number, offset, length int, err error) {
	var head [fastScan]byte
	h := head[:peek(msg, head[:])]
	total := msg.Len()
	if total == 0 {
		return 0, 0, 0, ErrNoMember
	}
	if num, typ, n := protowire.ConsumeTag(h); n > 0 && typ == protowire.BytesType && num <= known {
		if size, m := protowire.ConsumeVarint(h[n:]); m > 0 && size == uint64(total-n-m) {
			return num, n + m, int(size), nil
		}
	}
	flat := msg.Materialize()
	for at := 0; at < len(flat); {
		num, typ, n := protowire.ConsumeTag(flat[at:])
		if n < 0 {
			return 0, 0, 0, ErrMalformed
		}
		m := protowire.ConsumeFieldValue(num, typ, flat[at+n:])
		if m < 0 {
			return 0, 0, 0, ErrMalformed
		}
		if typ == protowire.BytesType && num <= known {
			value, _ := protowire.ConsumeBytes(flat[at+n:])
			member, offset, length = num, at+n+m-len(value), len(value)
		}
		at += n + m
	}
	if member == 0 {
		return 0, 0, 0, ErrNoMember
	}
	return member, offset, length, nil
}

// peek copies the first bytes of msg into buf and says how many.
func peek(msg mem.BufferSlice, buf []byte) int {
	n := 0
	for _, b := range msg {
		if n == len(buf) {
			break
		}
		n += copy(buf[n:], b.ReadOnlyData())
	}
	return n
}

// skip returns msg without its first n bytes. It consumes msg.
func skip(msg mem.BufferSlice, n int) mem.BufferSlice {
	for n > 0 {
		size := msg[0].Len()
		if n < size {
			rest := msg[0].Slice(n, size)
			msg[0].Free()
			msg[0] = rest
			return msg
		}
		msg[0].Free()
		msg = msg[1:]
		n -= size
	}
	return msg
}
