package tunnel

import (
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/frame"
)

// readRequestInfo reads the message that begins a call; false: it is another one, or malformed. It does not free msg. Every request has
// one, so that the usual encoding is read by hand.
func readRequestInfo(msg mem.BufferSlice) (method string, meta metadata.MD, ok bool) {
	buf := msg.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if method, meta, ok := readPlainInfo(buf.ReadOnlyData()); ok {
		return method, meta, true
	}
	return readAnyInfo(msg)
}

// readAnyInfo is readRequestInfo for every encoding.
func readAnyInfo(msg mem.BufferSlice) (method string, meta metadata.MD, ok bool) {
	m := &reversetunnel.ConnectResponse{}
	if err := frame.Unmarshal(msg, m); err != nil {
		return "", nil, false
	}
	info := m.GetRequestInfo()
	if info == nil {
		return "", nil, false
	}
	return info.MethodName, fromKeyValues(info.Meta), true
}

// readPlainInfo reads a RequestInfo whose fields are in order and known; false: something else has to read it.
func readPlainInfo(data []byte) (method string, meta metadata.MD, ok bool) {
	info, n := frame.Field(data, frame.ConnectRequestInfo)
	if n != len(data) {
		return "", nil, false
	}
	if name, n := frame.Field(info, infoMethod); n >= 0 {
		if !utf8.Valid(name) {
			return "", nil, false
		}
		method, info = string(name), info[n:]
	}
	meta = make(metadata.MD, 8)
	for len(info) > 0 {
		pair, n := frame.Field(info, infoMeta)
		if n < 0 || !frame.AddPair(meta, pair, legalKey) {
			return "", nil, false
		}
		info = info[n:]
	}
	return method, meta, true
}
