package httpgrpc_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/grpctool"
	"gitlab.com/agentk/agentk/api/prototool"
	"gitlab.com/agentk/agentk/internal/frame"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// canned is a call whose answer is there already.
type canned struct{ frames [][]byte }

func (*canned) Send(msg mem.BufferSlice) error { msg.Free(); return nil }
func (*canned) CloseSend() error               { return nil }

func (c *canned) Recv() (mem.BufferSlice, error) {
	if len(c.frames) == 0 {
		return nil, io.EOF
	}
	msg := mem.BufferSlice{mem.SliceBuffer(c.frames[0])}
	c.frames = c.frames[1:]
	return msg, nil
}

// A small GET, as an API server answers it: what the requester itself costs.
func BenchmarkSmallGet(b *testing.B) {
	header := http.Header{
		"Audit-Id": {"6ba7b810-9dad-11d1-80b4-00c04fd430c8"}, "Cache-Control": {"no-cache, private"}, "Content-Type": {"application/json"},
		"Content-Length": {"512"}, "Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "X-Kubernetes-Pf-Flowschema-Uid": {"6ba7b811-9dad-11d1-80b4-00c04fd430c8"},
	}
	head, err := proto.Marshal(&grpctool.HttpResponse{Message: &grpctool.HttpResponse_Header_{Header: &grpctool.HttpResponse_Header{
		Response: &prototool.HttpResponse{StatusCode: 200, Status: "200 OK", Header: httpgrpc.ToKeyValues(header)},
	}}})
	if err != nil {
		b.Fatal(err)
	}
	data := frame.Wrap(frame.HTTPData, mem.BufferSlice{mem.SliceBuffer(make([]byte, 512))}).Materialize()
	answer := [][]byte{head, data, frame.Empty(frame.HTTPTrailer).Materialize()}
	request := http.Header{"Accept": {"application/json, */*"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"kubectl/v1.34.0"}, "Via": {"gRPC/1.0 kas"}}
	b.ReportAllocs()
	for b.Loop() {
		x := &httpgrpc.Exchange{
			Method: http.MethodGet, Path: "/version", Header: request,
			Respond: func(int, http.Header) {},
		}
		q := &httpgrpc.Requester{Stream: &canned{answer}, Abort: func() {}}
		if _, err := q.Do(context.Background(), httptest.NewRecorder(), x); err != nil {
			b.Fatal(err)
		}
	}
}
