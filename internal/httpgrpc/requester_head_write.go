package httpgrpc

import (
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

// Field numbers of grpctool.HttpRequest.Header, prototool.HttpRequest, and google.protobuf.Any.
const (
	headRequest protowire.Number = 1
	headExtra   protowire.Number = 2
	headLength  protowire.Number = 3

	requestMethod protowire.Number = 1
	requestHeader protowire.Number = 2
	requestPath   protowire.Number = 3
	requestQuery  protowire.Number = 4

	anyType  protowire.Number = 1
	anyValue protowire.Number = 2
)

// marshalHead writes the head of a request.
func marshalHead(x *Exchange) (mem.BufferSlice, error) {
	if !plain(x) {
		return marshalAnyHead(x)
	}
	request := frame.SizeText(x.Method) + frame.SizePairs(x.Header) + frame.SizeText(x.Path) + frame.SizePairs(x.Query)
	head := frame.SizeMessage(request) + protowire.SizeTag(headLength) + protowire.SizeVarint(uint64(x.ContentLength))
	extra := frame.SizeText(x.Extra.GetTypeUrl()) + frame.SizeText(x.Extra.GetValue())
	if x.Extra != nil {
		head += frame.SizeMessage(extra)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(frame.SizeMessage(head))
	b := frame.OpenMessage((*buf)[:0], frame.HTTPHeader, head)
	b = frame.OpenMessage(b, headRequest, request)
	b = frame.AppendText(b, requestMethod, x.Method)
	b = frame.AppendPairs(b, requestHeader, x.Header)
	b = frame.AppendText(b, requestPath, x.Path)
	b = frame.AppendPairs(b, requestQuery, x.Query)
	if x.Extra != nil {
		b = frame.OpenMessage(b, headExtra, extra)
		b = frame.AppendText(b, anyType, x.Extra.GetTypeUrl())
		b = frame.AppendText(b, anyValue, x.Extra.GetValue())
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
	return plainHeader(x.Header)
}
