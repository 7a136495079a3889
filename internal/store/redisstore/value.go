package redisstore

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of a value, which is a protobuf message {int64 expires_at = 1; bytes value = 2}. Fields of later versions are skipped.
const (
	fieldExpiresAt protowire.Number = 1 // Unix milliseconds
	fieldPayload   protowire.Number = 2
)

// encode makes a value that is over at expiry.
func encode(expiry time.Time, payload []byte) []byte {
	b := protowire.AppendTag(nil, fieldExpiresAt, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(expiry.UnixMilli()))
	if len(payload) > 0 {
		b = protowire.AppendTag(b, fieldPayload, protowire.BytesType)
		b = protowire.AppendBytes(b, payload)
	}
	return b
}

// decode reads what encode or another version of it has made. ok is false for what nobody can read; the payload shares memory with b.
func decode(b []byte) (expiry time.Time, payload []byte, ok bool) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return time.Time{}, nil, false
		}
		b = b[n:]
		switch {
		case number == fieldExpiresAt && kind == protowire.VarintType:
			var ms uint64
			ms, n = protowire.ConsumeVarint(b)
			expiry = time.UnixMilli(int64(ms))
		case number == fieldPayload && kind == protowire.BytesType:
			payload, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return time.Time{}, nil, false
		}
		b = b[n:]
	}
	return expiry, payload, !expiry.IsZero()
}
