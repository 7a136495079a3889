package peer

import (
	"strconv"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/internal/frame"
)

// Fields of RequestInfo (package gitlab.agent.reverse_tunnel.rpc).
const (
	infoMethod protowire.Number = 1
	infoMeta   protowire.Number = 2
)

// openingInfo is the member that begins a request in a series: what the metadata says otherwise.
func openingInfo(q Request) mem.BufferSlice {
	method, id := "/"+q.Service+"/"+q.Method, strconv.FormatInt(q.AgentID, 10)
	size := frame.SizeText(method) + frame.SizePair(metaAgentID, id) + frame.SizePairs(q.Meta)
	if len(q.Require) > 0 {
		size += frame.SizePair(metaRequire, q.Require...)
	}
	b := frame.OpenMessage(make([]byte, 0, frame.SizeMessage(size)), frame.ConnectRequestInfo, size)
	b = frame.AppendText(b, infoMethod, method)
	b = frame.AppendPair(b, infoMeta, metaAgentID, id)
	if len(q.Require) > 0 {
		b = frame.AppendPair(b, infoMeta, metaRequire, q.Require...)
	}
	return mem.BufferSlice{mem.SliceBuffer(frame.AppendPairs(b, infoMeta, q.Meta))}
}

// opening is the first gRPC message of a request in a series.
type opening struct {
	method string
	meta   metadata.MD
	// messages are those of the request that came along. whole: there are no more.
	messages [][]byte
	whole    bool
}

// readOpening reads a request's first gRPC message, whose members come one after the other; false: it is malformed. The messages share
// data.
func readOpening(data []byte) (opening, bool) {
	o := opening{meta: metadata.MD{}}
	info, n := frame.Field(data, frame.ConnectRequestInfo)
	if n < 0 || !o.readInfo(info) {
		return o, false
	}
	for data = data[n:]; len(data) > 0 && !o.whole; data = data[n:] {
		var message []byte
		if message, n = frame.Field(data, frame.ConnectResponseMessage); n < 0 {
			if _, n = frame.Field(data, frame.ConnectCloseSend); n < 0 {
				return o, false
			}
			o.whole = true
			continue
		}
		payload, m := frame.Field(message, 1)
		if m != len(message) && len(message) > 0 {
			return o, false
		}
		o.messages = append(o.messages, payload)
	}
	return o, len(data) == 0
}

func (o *opening) readInfo(info []byte) bool {
	method, n := frame.Field(info, infoMethod)
	if n < 0 {
		return false
	}
	o.method = string(method)
	for info = info[n:]; len(info) > 0; info = info[n:] {
		var pair []byte
		if pair, n = frame.Field(info, infoMeta); n < 0 || !frame.AddPair(o.meta, pair, nil) {
			return false
		}
	}
	return true
}
