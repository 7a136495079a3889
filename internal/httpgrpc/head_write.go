package httpgrpc

import (
	"net/textproto"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// The heads of requests and responses are written and read by hand, since every request has one of each: with the generated code they
// would be half of what a small request allocates. Whatever is not plain is left to the generated code, which fuzz tests hold the
// functions here against.

// Field numbers of grpctool.HttpRequest.Header, prototool.HttpRequest and KeyValues, and google.protobuf.Any.
const (
	headRequest protowire.Number = 1
	headExtra   protowire.Number = 2
	headLength  protowire.Number = 3

	requestMethod protowire.Number = 1
	requestHeader protowire.Number = 2
	requestPath   protowire.Number = 3
	requestQuery  protowire.Number = 4

	pairKey    protowire.Number = 1
	pairValues protowire.Number = 2
	valueOf    protowire.Number = 1

	anyType  protowire.Number = 1
	anyValue protowire.Number = 2
)

// sizeOfTag is that of every field above.
const sizeOfTag = 1

// marshalHead writes the head of a request.
func marshalHead(x *Exchange) (mem.BufferSlice, error) {
	if !plain(x) {
		return marshalAnyHead(x)
	}
	request := sizeOfText(x.Method) + sizeOfPairs(x.Header) + sizeOfText(x.Path) + sizeOfPairs(x.Query)
	head := sizeOfMessage(request) + sizeOfTag + protowire.SizeVarint(uint64(x.ContentLength))
	extra := sizeOfText(x.Extra.GetTypeUrl()) + sizeOfText(x.Extra.GetValue())
	if x.Extra != nil {
		head += sizeOfMessage(extra)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(sizeOfMessage(head))
	b := openMessage((*buf)[:0], frame.HTTPHeader, head)
	b = openMessage(b, headRequest, request)
	b = appendText(b, requestMethod, x.Method)
	b = appendPairs(b, requestHeader, x.Header)
	b = appendText(b, requestPath, x.Path)
	b = appendPairs(b, requestQuery, x.Query)
	if x.Extra != nil {
		b = openMessage(b, headExtra, extra)
		b = appendText(b, anyType, x.Extra.GetTypeUrl())
		b = appendText(b, anyValue, x.Extra.GetValue())
	}
	b = protowire.AppendTag(b, headLength, protowire.VarintType)
	*buf = protowire.AppendVarint(b, uint64(x.ContentLength))
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// marshalAnyHead is marshalHead for every request.
func marshalAnyHead(x *Exchange) (mem.BufferSlice, error) {
	length := x.ContentLength
	return frame.Marshal(&grpctool.HttpRequest{Message: &grpctool.HttpRequest_Header_{Header: &grpctool.HttpRequest_Header{
		Request: &prototool.HttpRequest{
			Method:  x.Method,
			Header:  ToKeyValues(x.Header),
			UrlPath: x.Path,
			Query:   ValuesToKeyValues(x.Query),
		},
		Extra:         x.Extra,
		ContentLength: &length,
	}}})
}

// plain says that nothing has to be replaced or refused, and that nothing is there that marshalHead does not know.
func plain(x *Exchange) bool {
	if !utf8.ValidString(x.Method) || !utf8.ValidString(x.Path) || !utf8.ValidString(x.Extra.GetTypeUrl()) {
		return false
	}
	if x.Extra != nil && len(x.Extra.ProtoReflect().GetUnknown()) > 0 {
		return false
	}
	for name, values := range x.Header {
		if !utf8.ValidString(name) || textproto.CanonicalMIMEHeaderKey(name) != name {
			return false
		}
		for _, v := range values {
			if !utf8.ValidString(v) {
				return false
			}
		}
	}
	return true
}

// sizeOfMessage is the size of a field that holds a message of n bytes.
func sizeOfMessage(n int) int { return sizeOfTag + protowire.SizeBytes(n) }

// sizeOfText is the size of a field that is left out when it is empty.
func sizeOfText[T string | []byte](s T) int {
	if len(s) == 0 {
		return 0
	}
	return sizeOfMessage(len(s))
}

func sizeOfValues(values []string) int {
	size := 0
	for _, v := range values {
		size += sizeOfMessage(len(v))
	}
	return size
}

func sizeOfPair(key string, values []string) int {
	return sizeOfText(key) + sizeOfMessage(sizeOfValues(values))
}

func sizeOfPairs(m map[string][]string) int {
	size := 0
	for key, values := range m {
		size += sizeOfMessage(sizeOfPair(key, values))
	}
	return size
}

// openMessage begins a field that holds a message, whose n bytes have to follow.
func openMessage(b []byte, field protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(n))
}

func appendText[T string | []byte](b []byte, field protowire.Number, s T) []byte {
	if len(s) == 0 {
		return b
	}
	return append(openMessage(b, field, len(s)), s...)
}

// appendPairs writes a header or a query, sorted by key.
func appendPairs(b []byte, field protowire.Number, m map[string][]string) []byte {
	var few [16]string
	keys := few[:0]
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		values := m[key]
		b = openMessage(b, field, sizeOfPair(key, values))
		b = appendText(b, pairKey, key)
		b = openMessage(b, pairValues, sizeOfValues(values))
		for _, v := range values {
			b = append(openMessage(b, valueOf, len(v)), v...)
		}
	}
	return b
}
