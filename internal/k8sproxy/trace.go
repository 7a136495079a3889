package k8sproxy

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"

	"google.golang.org/grpc/metadata"
)

const (
	headerTraceparent = "Traceparent"
	traceIDLen        = 32
	spanIDLen         = 16
	// traceparentLen is the length of version 00: version, trace id, span id and flags with dashes between.
	traceparentLen = 2 + 1 + traceIDLen + 1 + spanIDLen + 1 + 2
)

// trace names a request in logs, in error messages, and towards the agent.
type trace struct {
	id, span, flags string
}

// traceOf takes over the W3C trace id of the client, or makes one.
func traceOf(h http.Header) trace {
	t := newTrace()
	values := h[headerTraceparent]
	if len(values) != 1 || len(values[0]) != traceparentLen {
		return t
	}
	parts := strings.Split(values[0], "-")
	if len(parts) == 4 && parts[0] == "00" && isID(parts[1], traceIDLen) && isID(parts[2], spanIDLen) && isHex(parts[3]) {
		t.id, t.flags = parts[1], parts[3]
	}
	return t
}

// meta is all that the agent is told beside the request. It holds no credential.
func (t trace) meta() metadata.MD {
	return metadata.MD{"traceparent": {"00-" + t.id + "-" + t.span + "-" + t.flags}, "user-agent": {product}}
}

func isID(s string, length int) bool {
	return len(s) == length && isHex(s) && strings.Trim(s, "0") != ""
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// newTrace makes ids that are unlikely to be made twice; they are no secrets.
func newTrace() trace {
	var b [(traceIDLen + spanIDLen) / 2]byte
	for at := 0; at < len(b); at += 8 {
		binary.NativeEndian.PutUint64(b[at:], rand.Uint64())
	}
	ids := hex.EncodeToString(b[:])
	return trace{id: ids[:traceIDLen], span: ids[traceIDLen:], flags: "00"}
}
