package httpgrpc

import (
	"net/http"
	"net/textproto"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// responseHeaderMessage serializes the HttpResponse message with a header. It writes by hand what generated code would write: every
// answer has such a message, and one object per name and value, made only to be serialized, was a tenth of an answer's cost.
func responseHeaderMessage(resp *http.Response) (mem.BufferSlice, error) {
	if !utf8.ValidString(resp.Status) || !plainHeader(resp.Header) {
		return generatedHeaderMessage(resp)
	}
	code := uint64(int64(int32(resp.StatusCode)))
	size := frame.SizeText(resp.Status) + frame.SizePairs(resp.Header)
	if code != 0 {
		size += protowire.SizeTag(responseCode) + protowire.SizeVarint(code)
	}
	header := frame.SizeMessage(size)
	b := make([]byte, 0, frame.SizeMessage(header))
	b = frame.OpenMessage(b, frame.HTTPHeader, header)
	b = frame.OpenMessage(b, headResponse, size)
	if code != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, responseCode, protowire.VarintType), code)
	}
	b = frame.AppendText(b, responseStatus, resp.Status)
	b = frame.AppendPairs(b, responseHeader, resp.Header)
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// plainHeader says whether names and values go onto the wire as they are.
func plainHeader(h http.Header) bool {
	for key, values := range h {
		if textproto.CanonicalMIMEHeaderKey(key) != key || !utf8.ValidString(key) {
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

// generatedHeaderMessage is for headers that have to be changed first.
func generatedHeaderMessage(resp *http.Response) (mem.BufferSlice, error) {
	msg, err := frame.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
		Response: &prototool.HttpResponse{
			StatusCode: int32(resp.StatusCode),
			Status:     strings.ToValidUTF8(resp.Status, "\uFFFD"),
			Header:     ToKeyValues(resp.Header),
		},
	}}})
	if err != nil {
		return nil, status.Errorf(codes.Internal, "response header: %v", err)
	}
	return msg, nil
}
