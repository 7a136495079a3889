package httpgrpc

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// Field numbers of grpctool.HttpResponse.Header and prototool.HttpResponse.
const (
	headResponse protowire.Number = 1

	responseCode   protowire.Number = 1
	responseStatus protowire.Number = 2
	responseHeader protowire.Number = 3
)

// responseHead is the head of a response.
type responseHead struct {
	status int
	header http.Header
}

var (
	errUnreadable = errors.New("the response header cannot be read")
	errNoHead     = errors.New("a response header without a response")
	// errNotPlain: the generated code has to read this one.
	errNotPlain = errors.New("not the plain encoding")
)

// readHead reads a message whose member is the header. It does not free it. Errors name a key, never a value.
func readHead(msg mem.BufferSlice) (responseHead, error) {
	buf := msg.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	h, err := readPlainHead(buf.ReadOnlyData())
	if errors.Is(err, errNotPlain) {
		return readAnyHead(msg)
	}
	return h, err
}

// readAnyHead is readHead for every encoding.
func readAnyHead(msg mem.BufferSlice) (responseHead, error) {
	f := grpctool.HttpResponse{}
	if err := frame.Unmarshal(msg, &f); err != nil {
		return responseHead{}, errUnreadable
	}
	resp := f.GetHeader().GetResponse()
	if resp == nil {
		return responseHead{}, errNoHead
	}
	header, err := FromKeyValues(resp.GetHeader())
	return responseHead{status: int(resp.GetStatusCode()), header: header}, err
}

// readPlainHead reads what peers send: every field at most once, and none that is not known.
func readPlainHead(data []byte) (responseHead, error) {
	for _, field := range []protowire.Number{frame.HTTPHeader, headResponse} {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 || num != field || typ != protowire.BytesType {
			return responseHead{}, errNotPlain
		}
		inner, m := protowire.ConsumeBytes(data[n:])
		if m < 0 || n+m != len(data) {
			return responseHead{}, errNotPlain
		}
		data = inner
	}
	fields := countFields(data)
	h := responseHead{header: make(http.Header, fields)}
	r := headReader{text: string(data), values: make([]string, fields)}
	last := protowire.Number(0)
	for at := 0; at < len(data); {
		num, typ, n := protowire.ConsumeTag(data[at:])
		// In order, and only the header more than once.
		if n < 0 || num < last || num == last && num != responseHeader {
			return responseHead{}, errNotPlain
		}
		last, at = num, at+n
		switch {
		case num == responseCode && typ == protowire.VarintType:
			code, m := protowire.ConsumeVarint(data[at:])
			if m < 0 {
				return responseHead{}, errNotPlain
			}
			h.status, at = int(int32(code)), at+m
		case num == responseStatus && typ == protowire.BytesType:
			text, m := protowire.ConsumeBytes(data[at:])
			if m < 0 || !utf8.Valid(text) {
				return responseHead{}, errNotPlain
			}
			at += m
		case num == responseHeader && typ == protowire.BytesType:
			pair, m := protowire.ConsumeBytes(data[at:])
			if m < 0 {
				return responseHead{}, errNotPlain
			}
			at += m
			if err := r.pair(h.header, pair, at-len(pair)); err != nil {
				return responseHead{}, err
			}
		default:
			return responseHead{}, errNotPlain
		}
	}
	return h, nil
}

// manyFields is up to how many fields room is made for beforehand; what a peer sends decides about no more.
const manyFields = 32

// countFields is how many fields a header has, as far as room is made for them: a map with room for a few more may be twice as large.
func countFields(data []byte) int {
	fields := 0
	for len(data) > 0 && fields < manyFields {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fields
		}
		m := protowire.ConsumeFieldValue(num, typ, data[n:])
		if m < 0 {
			return fields
		}
		if num == responseHeader {
			fields++
		}
		data = data[n+m:]
	}
	return fields
}

// headReader makes the strings of a header. They share text, the whole of what is read, and the slices of values share one, so that a
// header costs few allocations however many fields it has.
type headReader struct {
	text   string
	values []string
}

// pair adds a KeyValues that begins at an offset of text.
func (r *headReader) pair(h http.Header, data []byte, at int) error {
	key, n := frame.Field(data, frame.PairKey)
	if n < 0 {
		return errNotPlain
	}
	values, m := frame.Field(data[n:], frame.PairValues)
	if m < 0 || n+m != len(data) {
		return errNotPlain
	}
	name := r.text[at+n-len(key) : at+n]
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("invalid header name %q", shorten(name))
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	for begin := at + n + m - len(values); len(values) > 0; {
		value, n := frame.Field(values, frame.PairValue)
		if n < 0 {
			return errNotPlain
		}
		begin += n
		text := r.text[begin-len(value) : begin]
		if !httpguts.ValidHeaderFieldValue(text) {
			return fmt.Errorf("invalid value of header %q", name)
		}
		h[name] = r.add(h[name], text)
		values = values[n:]
	}
	return nil
}

// add appends a value; the first one of a name gets its place in the shared slice.
func (r *headReader) add(to []string, value string) []string {
	if to != nil || len(r.values) == 0 {
		return append(to, value)
	}
	to, r.values = r.values[:1:1], r.values[1:]
	to[0] = value
	return to
}
