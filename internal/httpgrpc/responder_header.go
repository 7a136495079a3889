package httpgrpc

import (
	"net/http"
	"net/textproto"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// Field numbers of the messages around a response header (packages gitlab.agent.grpctool and gitlab.agent.prototool).
const (
	headerResponse     protowire.Number = 1
	responseStatusCode protowire.Number = 1
	responseStatus     protowire.Number = 2
	responseHeader     protowire.Number = 3
	keyValuesKey       protowire.Number = 1
	keyValuesValue     protowire.Number = 2
	valuesValue        protowire.Number = 1
)

// responseHeaderMessage serializes the HttpResponse message with a header. It writes by hand what generated code would write: every
// answer has such a message, and one object per name and value, made only to be serialized, was a tenth of an answer's cost.
func responseHeaderMessage(resp *http.Response) (mem.BufferSlice, error) {
	code := uint64(int64(int32(resp.StatusCode)))
	if !utf8.ValidString(resp.Status) || !plainHeader(resp.Header) {
		return generatedHeaderMessage(resp)
	}
	keys := make([]string, 0, len(resp.Header))
	for key := range resp.Header {
		keys = append(keys, key)
	}
	slices.Sort(keys)

	size := 0
	if code != 0 {
		size += protowire.SizeTag(responseStatusCode) + protowire.SizeVarint(code)
	}
	if resp.Status != "" {
		size += sizeField(responseStatus, len(resp.Status))
	}
	for _, key := range keys {
		size += sizeField(responseHeader, sizeKeyValues(key, resp.Header[key]))
	}
	header := sizeField(headerResponse, size)
	b := make([]byte, 0, sizeField(frame.HTTPHeader, header))
	b = appendPrefix(b, frame.HTTPHeader, header)
	b = appendPrefix(b, headerResponse, size)
	if code != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, responseStatusCode, protowire.VarintType), code)
	}
	if resp.Status != "" {
		b = append(appendPrefix(b, responseStatus, len(resp.Status)), resp.Status...)
	}
	for _, key := range keys {
		b = appendKeyValues(b, key, resp.Header[key])
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// plainHeader says whether names and values go onto the wire as they are.
func plainHeader(h http.Header) bool {
	for key, values := range h {
		if key == "" || textproto.CanonicalMIMEHeaderKey(key) != key || !utf8.ValidString(key) {
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

// generatedHeaderMessage is for headers that have to be changed first, and for what cannot be serialized.
func generatedHeaderMessage(resp *http.Response) (mem.BufferSlice, error) {
	msg, err := frame.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
		Response: &prototool.HttpResponse{
			StatusCode: int32(resp.StatusCode),
			Status:     resp.Status,
			Header:     ToKeyValues(resp.Header),
		},
	}}})
	if err != nil {
		return nil, status.Errorf(codes.Internal, "response header: %v", err)
	}
	return msg, nil
}

func sizeField(number protowire.Number, n int) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(n)
}

func sizeValues(values []string) int {
	n := 0
	for _, v := range values {
		n += sizeField(valuesValue, len(v))
	}
	return n
}

func sizeKeyValues(key string, values []string) int {
	return sizeField(keyValuesKey, len(key)) + sizeField(keyValuesValue, sizeValues(values))
}

func appendPrefix(b []byte, number protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(n))
}

func appendKeyValues(b []byte, key string, values []string) []byte {
	b = appendPrefix(b, responseHeader, sizeKeyValues(key, values))
	b = append(appendPrefix(b, keyValuesKey, len(key)), key...)
	b = appendPrefix(b, keyValuesValue, sizeValues(values))
	for _, v := range values {
		b = append(appendPrefix(b, valuesValue, len(v)), v...)
	}
	return b
}
