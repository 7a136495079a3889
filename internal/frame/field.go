package frame

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of prototool.KeyValues, and of the values in its Values.
const (
	PairKey    protowire.Number = 1
	PairValues protowire.Number = 2
	PairValue  protowire.Number = 1
)

// sizeTag is that of every field with a number below 16, which is all that are written by hand.
const sizeTag = 1

// SizeMessage is the size of a field that holds a message of n bytes.
func SizeMessage(n int) int { return sizeTag + protowire.SizeBytes(n) }

// SizeText is the size of a field of text or bytes, which is left out when it is empty.
func SizeText[T string | []byte](s T) int {
	if len(s) == 0 {
		return 0
	}
	return SizeMessage(len(s))
}

// SizePairs is the size of a repeated field of KeyValues.
func SizePairs(m map[string][]string) int {
	size := 0
	for key, values := range m {
		size += SizeMessage(sizePair(key, values))
	}
	return size
}

func sizePair(key string, values []string) int {
	return SizeText(key) + SizeMessage(sizeValues(values))
}

func sizeValues(values []string) int {
	size := 0
	for _, v := range values {
		size += SizeMessage(len(v))
	}
	return size
}

// OpenMessage begins a field that holds a message, whose n bytes have to follow.
func OpenMessage(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n))
}

// AppendText appends a field of text or bytes, unless it is empty.
func AppendText[T string | []byte](b []byte, field protowire.Number, s T) []byte {
	if len(s) == 0 {
		return b
	}
	return append(OpenMessage(b, field, len(s)), s...)
}

// AppendPairs appends a repeated field of KeyValues, sorted by key. Text is written as it is.
func AppendPairs(b []byte, field protowire.Number, m map[string][]string) []byte {
	var few [16]string
	keys := few[:0]
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		b = AppendPair(b, field, key, m[key]...)
	}
	return b
}

// AppendPair appends one KeyValues to a repeated field.
func AppendPair(b []byte, field protowire.Number, key string, values ...string) []byte {
	b = OpenMessage(b, field, sizePair(key, values))
	b = AppendText(b, PairKey, key)
	b = OpenMessage(b, PairValues, sizeValues(values))
	for _, v := range values {
		b = append(OpenMessage(b, PairValue, len(v)), v...)
	}
	return b
}

// SizePair is the size of one KeyValues in a repeated field.
func SizePair(key string, values ...string) int { return SizeMessage(sizePair(key, values)) }

// Field reads the field of text or bytes that data begins with: its value, and the length of the whole. The length is negative if data
// begins with anything else.
func Field(data []byte, field protowire.Number) ([]byte, int) {
	num, typ, n := protowire.ConsumeTag(data)
	if n < 0 || num != field || typ != protowire.BytesType {
		return nil, -1
	}
	value, m := protowire.ConsumeBytes(data[n:])
	if m < 0 {
		return nil, -1
	}
	return value, n + m
}

// AddPair adds a KeyValues to m, one value after the other, unless legal says that its key is not; nil: every key is. It returns false if the
// KeyValues is not encoded plainly, key before values: something else has to read it then.
func AddPair(m map[string][]string, pair []byte, legal func(key string) bool) bool {
	key, n := Field(pair, PairKey)
	if n < 0 {
		return false
	}
	values, k := Field(pair[n:], PairValues)
	if k < 0 || n+k != len(pair) {
		return false
	}
	name := string(key)
	add := legal == nil || legal(name)
	for len(values) > 0 {
		value, n := Field(values, PairValue)
		if n < 0 {
			return false
		}
		if add {
			m[name] = append(m[name], string(value))
		}
		values = values[n:]
	}
	return true
}
