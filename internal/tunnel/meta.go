package tunnel

import (
	"strconv"
	"strings"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
)

// Field numbers of RequestInfo.
const (
	infoMethod protowire.Number = 1
	infoMeta   protowire.Number = 2
)

// requestInfo is the serialized ConnectResponse that begins a call. It is written by hand, as every request has one.
func requestInfo(method string, meta metadata.MD, waiting int) mem.BufferSlice {
	meta, number := legal(meta), strconv.Itoa(waiting)
	info := frame.SizeText(method) + frame.SizePairs(meta) + frame.SizePair(MetaWaiting, number) + frame.SizePair(MetaAgain, again)
	b := make([]byte, 0, frame.SizeMessage(info))
	b = frame.OpenMessage(b, frame.ConnectRequestInfo, info)
	b = frame.AppendText(b, infoMethod, method)
	b = frame.AppendPairs(b, infoMeta, meta)
	b = frame.AppendPair(b, infoMeta, MetaWaiting, number)
	b = frame.AppendPair(b, infoMeta, MetaAgain, again)
	return mem.BufferSlice{mem.SliceBuffer(b)}
}

// legal leaves out keys and values that a stock agent would choke on.
func legal(md metadata.MD) metadata.MD {
	if allLegal(md) {
		return md
	}
	out := metadata.MD{}
	for key, values := range md {
		if !legalKey(key) {
			continue
		}
		for _, v := range values {
			if legalValue(key, v) {
				out[key] = append(out[key], v)
			}
		}
	}
	return out
}

func allLegal(md metadata.MD) bool {
	for key, values := range md {
		if !legalKey(key) || len(values) == 0 {
			return false
		}
		for _, v := range values {
			if !legalValue(key, v) {
				return false
			}
		}
	}
	return true
}

func legalValue(key, v string) bool { return strings.HasSuffix(key, "-bin") || printable(v) }

func keyValue(key string, values ...string) *prototool.KeyValues {
	kv := &prototool.KeyValues{Key: []byte(key), Value: &prototool.Values{}}
	for _, v := range values {
		kv.Value.Value = append(kv.Value.Value, []byte(v))
	}
	return kv
}

// fromKeyValues reads RequestInfo metadata. Entries of the same key are joined.
func fromKeyValues(kvs []*prototool.KeyValues) metadata.MD {
	md := make(metadata.MD, len(kvs))
	for _, kv := range kvs {
		key := string(kv.Key)
		if !legalKey(key) {
			continue
		}
		for _, v := range kv.GetValue().GetValue() {
			md[key] = append(md[key], string(v))
		}
	}
	return md
}

func legalKey(key string) bool {
	if key == "" {
		return false
	}
	for i := range len(key) {
		c := key[i]
		if c == ':' && i == 0 {
			continue
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func printable(v string) bool {
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return false
		}
	}
	return true
}
