package frame

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Field numbers of the oneofs framed by hand.
const (
	// HttpRequest and HttpResponse (package gitlab.agent.grpctool).
	HTTPHeader      protowire.Number = 1
	HTTPData        protowire.Number = 2
	HTTPTrailer     protowire.Number = 3
	HTTPUpgradeData protowire.Number = 4
	// ConnectRequest (package gitlab.agent.reverse_tunnel.rpc).
	ConnectDescriptor protowire.Number = 1
	ConnectHeader     protowire.Number = 2
	ConnectMessage    protowire.Number = 3
	ConnectTrailer    protowire.Number = 4
	ConnectError      protowire.Number = 5
	// ConnectResponse.
	ConnectRequestInfo     protowire.Number = 1
	ConnectResponseMessage protowire.Number = 2
	ConnectCloseSend       protowire.Number = 3
)

// dataField is the number of the bytes field in every bulk message: Data, UpgradeData and Message.
const dataField protowire.Number = 1

// maxPrefix is the longest prefix of a wrapped bulk message: two tags and two lengths.
const maxPrefix = 2 * (1 + 10)

var (
	// ErrNoMember means that a message has none of its oneof's members.
	ErrNoMember = errors.New("message has no member set")
	// ErrMalformed means that a message is not valid protobuf.
	ErrMalformed = errors.New("message is malformed")
)

// Wrap frames payload as a oneof message of one member that holds one bytes field: {member: {1: payload}}. It owns payload.
func Wrap(member protowire.Number, payload mem.BufferSlice) mem.BufferSlice {
	n := payload.Len()
	inner := 0
	if n > 0 {
		inner = protowire.SizeTag(dataField) + protowire.SizeBytes(n)
	}
	prefix := make([]byte, 0, maxPrefix)
	prefix = protowire.AppendTag(prefix, member, protowire.BytesType)
	prefix = protowire.AppendVarint(prefix, uint64(inner))
	if n > 0 {
		prefix = protowire.AppendTag(prefix, dataField, protowire.BytesType)
		prefix = protowire.AppendVarint(prefix, uint64(n))
	}
	out := make(mem.BufferSlice, 0, len(payload)+1)
	out = append(out, mem.SliceBuffer(prefix))
	return append(out, payload...)
}

// Empty is the serialized oneof message whose member is present and empty, for example HttpRequest{trailer: {}}.
func Empty(member protowire.Number) mem.BufferSlice {
	return mem.BufferSlice{mem.SliceBuffer(OpenMessage(make([]byte, 0, SizeMessage(0)), member, 0))}
}

// Marshal serializes a message of the generated code.
func Marshal(m proto.Message) (mem.BufferSlice, error) { return Codec{}.Marshal(m) }

// Unmarshal parses data into a message of the generated code. It does not free data.
func Unmarshal(data mem.BufferSlice, m proto.Message) error { return Codec{}.Unmarshal(data, m) }
