package tunnel

import (
	"container/list"
	"time"

	"google.golang.org/grpc"
)

// stream is one stream of an agent at kas: parked, or busy with a call.
type stream struct {
	agentID int64
	rpc     grpc.ServerStream
	// peer names the transport connection, once the stream has entered the registry.
	peer string
	desc *descriptor

	// Guarded by the registry's shard mutex.
	conn     *connStreams
	element  *list.Element // nil: not parked
	handed   bool
	parkedAt time.Time
	// unwanted: the stream should end as soon as nobody holds it. left: it has ended.
	unwanted, left bool

	// retired is closed by the registry: end with OK.
	retired chan struct{}
	// ended gets the end of the last call.
	ended chan error
}

func newStream(agentID int64, rpc grpc.ServerStream) *stream {
	return &stream{agentID: agentID, rpc: rpc, retired: make(chan struct{}), ended: make(chan error, 1)}
}

// end ends the stream's RPC with err, nil for OK. Only the first call of it counts.
func (s *stream) end(err error) {
	select {
	case s.ended <- err:
	default:
	}
}
