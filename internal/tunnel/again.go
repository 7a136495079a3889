package tunnel

import (
	"bytes"
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// Metadata keys of ours in RequestInfo. A stock agent passes them on to nobody.
const (
	// MetaWaiting is how many further requests wait for a stream. An agent of ours opens that many at once.
	MetaWaiting = "agentk-waiting"
	// MetaAgain, with the value "1", offers to park the stream again after the call. An agent accepts by the same key in its Trailer, if the
	// call has ended with OK and kas has sent CloseSend. Then no Error and no half-close follow, and the stream is parked as it was after the
	// Descriptor. To open a stream costs both sides about as much as a small request does.
	MetaAgain = "agentk-again"

	again = "1"
)

// againTrailer is the Trailer that accepts the offer.
var againTrailer = mustMarshal(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Trailer{
	Trailer: &reversetunnel.Trailer{Meta: []*prototool.KeyValues{keyValue(MetaAgain, again)}},
}})

// offered says whether a RequestInfo offers to park the stream again.
func offered(meta metadata.MD) bool { return slices.Equal(meta[MetaAgain], []string{again}) }

// accepted says whether a Trailer accepts the offer.
func accepted(trailer mem.BufferSlice) bool {
	if n := trailer.Len(); n == len(emptyTrailer) {
		return false // the usual one of an agent that does not
	}
	buf := trailer.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if bytes.Equal(buf.ReadOnlyData(), againTrailer) {
		return true
	}
	m := &reversetunnel.ConnectRequest{}
	if proto.Unmarshal(buf.ReadOnlyData(), m) != nil {
		return false
	}
	return slices.Equal(fromKeyValues(m.GetTrailer().GetMeta())[MetaAgain], []string{again})
}
