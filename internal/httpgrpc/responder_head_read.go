package httpgrpc

import (
	"bytes"
	"net/http"
	"net/url"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// requestHead is the head of a request as its requester has sent it; only the encoding was checked.
type requestHead struct {
	// present: there is a request at all. Without one, method, path, header and query are empty.
	present      bool
	method, path string
	header       http.Header
	// headerErr is why the header cannot be used.
	headerErr error
	query     url.Values
	// extra is nil if there is none; length is nil if the requester says nothing of a body.
	extra  *anypb.Any
	length *int64
}

// readRequestHead reads a message whose member is the header. It does not free it.
func readRequestHead(msg mem.BufferSlice) (*requestHead, error) {
	buf := msg.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	h := &requestHead{}
	if h.readPlain(buf.ReadOnlyData()) {
		return h, nil
	}
	return readAnyRequestHead(msg)
}

// readAnyRequestHead is readRequestHead for every encoding.
func readAnyRequestHead(msg mem.BufferSlice) (*requestHead, error) {
	var f grpctool.HttpRequest
	if err := frame.Unmarshal(msg, &f); err != nil {
		return nil, err
	}
	request := f.GetHeader().GetRequest()
	h := &requestHead{
		present: request != nil, method: request.GetMethod(), path: request.GetUrlPath(), query: ValuesFromKeyValues(request.GetQuery()),
		extra: f.GetHeader().GetExtra(), length: f.GetHeader().ContentLength,
	}
	h.header, h.headerErr = FromKeyValues(request.GetHeader())
	return h, nil
}

// readPlain reads what peers send: fields in their order, none twice but for pairs, none unknown, and nothing that has to be refused.
// Otherwise it says false, and what it has read is of no use.
func (h *requestHead) readPlain(data []byte) bool {
	head, n := frame.Field(data, frame.HTTPHeader)
	if n != len(data) {
		return false
	}
	request, n := frame.Field(head, headRequest)
	if n < 0 {
		return false
	}
	h.present = true
	if !h.readRequest(request) {
		return false
	}
	rest := head[n:]
	if extra, n := frame.Field(rest, headExtra); n >= 0 {
		if !h.readExtra(extra) {
			return false
		}
		rest = rest[n:]
	}
	if num, typ, n := protowire.ConsumeTag(rest); n > 0 && num == headLength && typ == protowire.VarintType {
		length, m := protowire.ConsumeVarint(rest[n:])
		if m < 0 {
			return false
		}
		h.length = new(int64)
		*h.length = int64(length)
		rest = rest[n+m:]
	}
	return len(rest) == 0
}

func (h *requestHead) readRequest(data []byte) bool {
	h.header, h.query = make(http.Header, 12), url.Values{}
	r := headReader{text: string(data), values: make([]string, 12)}
	last := protowire.Number(0)
	for at := 0; at < len(data); {
		num, typ, n := protowire.ConsumeTag(data[at:])
		if n < 0 || typ != protowire.BytesType || num < last || num == last && num != requestHeader && num != requestQuery {
			return false
		}
		value, m := protowire.ConsumeBytes(data[at+n:])
		if m < 0 {
			return false
		}
		last, at = num, at+n+m
		begin := at - len(value)
		ok := true
		switch num {
		case requestMethod:
			h.method, ok = r.text[begin:at], utf8.Valid(value)
		case requestPath:
			h.path, ok = r.text[begin:at], utf8.Valid(value)
		case requestHeader:
			ok = r.pair(h.header, value, begin) == nil
		case requestQuery:
			ok = frame.AddPair(h.query, value, nil)
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

func (h *requestHead) readExtra(data []byte) bool {
	h.extra = &anypb.Any{}
	if kind, n := frame.Field(data, anyType); n >= 0 {
		if !utf8.Valid(kind) {
			return false
		}
		h.extra.TypeUrl, data = string(kind), data[n:]
	}
	if value, n := frame.Field(data, anyValue); n >= 0 {
		h.extra.Value, data = bytes.Clone(value), data[n:]
	}
	return len(data) == 0
}
