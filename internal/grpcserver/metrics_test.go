package grpcserver

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// endStream is a stream whose messages go nowhere.
type endStream struct {
	grpc.ServerStream
	err error
}

func (s endStream) SendMsg(any) error { return s.err }
func (s endStream) RecvMsg(any) error { return s.err }

func TestServerMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics, err := Metrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	both := func(_ any, s grpc.ServerStream) error { return errors.Join(s.SendMsg(nil), s.RecvMsg(nil)) }
	count := CountStreams(metrics, "/s.S/Bulk")
	info := func(method string) *grpc.StreamServerInfo {
		return &grpc.StreamServerInfo{FullMethod: method, IsClientStream: true, IsServerStream: true}
	}
	broken := status.Error(codes.Unavailable, "broken")
	for _, call := range []struct {
		method string
		stream endStream
		want   error
	}{{"/s.S/Bulk", endStream{}, nil}, {"/s.S/Other", endStream{}, nil}, {"/s.S/Other", endStream{err: broken}, broken}} {
		if err := count(nil, call.stream, info(call.method), both); !errors.Is(err, call.want) {
			t.Errorf("%s: %v", call.method, err)
		}
	}
	unary := metrics.UnaryServerInterceptor()
	for _, want := range []error{nil, context.Canceled} {
		_, err := unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/s.S/One"}, func(context.Context, any) (any, error) { return nil, want })
		if !errors.Is(err, want) {
			t.Error(err)
		}
	}
	err = testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP grpc_server_handled_total RPCs completed on the server, whether or not they succeeded
# TYPE grpc_server_handled_total counter
grpc_server_handled_total{grpc_code="Canceled",grpc_method="One",grpc_service="s.S",grpc_type="unary"} 1
grpc_server_handled_total{grpc_code="OK",grpc_method="Bulk",grpc_service="s.S",grpc_type="bidi_stream"} 1
grpc_server_handled_total{grpc_code="OK",grpc_method="One",grpc_service="s.S",grpc_type="unary"} 1
grpc_server_handled_total{grpc_code="OK",grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 1
grpc_server_handled_total{grpc_code="Unavailable",grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 1
# HELP grpc_server_msg_received_total Messages received by the server
# TYPE grpc_server_msg_received_total counter
grpc_server_msg_received_total{grpc_method="Bulk",grpc_service="s.S",grpc_type="bidi_stream"} 0
grpc_server_msg_received_total{grpc_method="One",grpc_service="s.S",grpc_type="unary"} 2
grpc_server_msg_received_total{grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 1
# HELP grpc_server_msg_sent_total Messages sent by the server
# TYPE grpc_server_msg_sent_total counter
grpc_server_msg_sent_total{grpc_method="Bulk",grpc_service="s.S",grpc_type="bidi_stream"} 0
grpc_server_msg_sent_total{grpc_method="One",grpc_service="s.S",grpc_type="unary"} 1
grpc_server_msg_sent_total{grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 1
# HELP grpc_server_started_total RPCs started on the server
# TYPE grpc_server_started_total counter
grpc_server_started_total{grpc_method="Bulk",grpc_service="s.S",grpc_type="bidi_stream"} 1
grpc_server_started_total{grpc_method="One",grpc_service="s.S",grpc_type="unary"} 2
grpc_server_started_total{grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 2
`))
	if err != nil {
		t.Error(err)
	}
}
