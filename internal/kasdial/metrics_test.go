package kasdial

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// shortStream receives one message and then ends.
type shortStream struct {
	grpc.ClientStream
	end      error
	received bool
}

func (s *shortStream) SendMsg(any) error { return s.end }

func (s *shortStream) RecvMsg(any) error {
	if s.received {
		return s.end
	}
	s.received = true
	return nil
}

func TestClientMetrics(t *testing.T) {
	registry, metrics := prometheus.NewRegistry(), newClientMetrics()
	registry.MustRegister(metrics)
	broken := status.Error(codes.Unavailable, "broken")
	both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	for _, call := range []struct {
		method    string
		desc      *grpc.StreamDesc
		open, end error
	}{
		{bulk, both, nil, io.EOF},
		{"/s.S/Other", both, nil, io.EOF},
		{"/s.S/Other", both, nil, broken},
		{"/s.S/Other", both, broken, nil},
		{"/s.S/Up", &grpc.StreamDesc{ClientStreams: true}, nil, nil},
	} {
		stream, err := metrics.countStream(t.Context(), call.desc, nil, call.method,
			func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
				return &shortStream{end: call.end}, call.open
			})
		if !errors.Is(err, call.open) {
			t.Errorf("open %s: %v", call.method, err)
		}
		if err != nil {
			continue
		}
		if err := stream.SendMsg(nil); !errors.Is(err, call.end) {
			t.Errorf("send on %s: %v", call.method, err)
		}
		if err := stream.RecvMsg(nil); err != nil {
			t.Errorf("receive on %s: %v", call.method, err)
		}
		if !call.desc.ServerStreams {
			continue
		}
		if err := stream.RecvMsg(nil); !errors.Is(err, call.end) {
			t.Errorf("the end of %s: %v", call.method, err)
		}
	}
	for _, want := range []error{nil, context.Canceled} {
		err := metrics.countUnary(t.Context(), "/s.S/One", nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return want })
		if !errors.Is(err, want) {
			t.Error(err)
		}
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(counted)); err != nil {
		t.Error(err)
	}
}

const counted = `
# HELP grpc_client_handled_total RPCs completed by the client, whether or not they succeeded
# TYPE grpc_client_handled_total counter
grpc_client_handled_total{grpc_code="Canceled",grpc_method="One",grpc_service="s.S",grpc_type="unary"} 1
grpc_client_handled_total{grpc_code="OK",grpc_method="Connect",grpc_service="gitlab.agent.reverse_tunnel.rpc.ReverseTunnel",grpc_type="bidi_stream"} 1
grpc_client_handled_total{grpc_code="OK",grpc_method="One",grpc_service="s.S",grpc_type="unary"} 1
grpc_client_handled_total{grpc_code="OK",grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 1
grpc_client_handled_total{grpc_code="OK",grpc_method="Up",grpc_service="s.S",grpc_type="client_stream"} 1
grpc_client_handled_total{grpc_code="Unavailable",grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 2
# HELP grpc_client_msg_received_total Messages received by the client
# TYPE grpc_client_msg_received_total counter
grpc_client_msg_received_total{grpc_method="Connect",grpc_service="gitlab.agent.reverse_tunnel.rpc.ReverseTunnel",grpc_type="bidi_stream"} 0
grpc_client_msg_received_total{grpc_method="One",grpc_service="s.S",grpc_type="unary"} 1
grpc_client_msg_received_total{grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 2
grpc_client_msg_received_total{grpc_method="Up",grpc_service="s.S",grpc_type="client_stream"} 1
# HELP grpc_client_msg_sent_total Messages sent by the client
# TYPE grpc_client_msg_sent_total counter
grpc_client_msg_sent_total{grpc_method="Connect",grpc_service="gitlab.agent.reverse_tunnel.rpc.ReverseTunnel",grpc_type="bidi_stream"} 0
grpc_client_msg_sent_total{grpc_method="One",grpc_service="s.S",grpc_type="unary"} 2
grpc_client_msg_sent_total{grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 0
grpc_client_msg_sent_total{grpc_method="Up",grpc_service="s.S",grpc_type="client_stream"} 1
# HELP grpc_client_started_total RPCs started by the client
# TYPE grpc_client_started_total counter
grpc_client_started_total{grpc_method="Connect",grpc_service="gitlab.agent.reverse_tunnel.rpc.ReverseTunnel",grpc_type="bidi_stream"} 1
grpc_client_started_total{grpc_method="One",grpc_service="s.S",grpc_type="unary"} 2
grpc_client_started_total{grpc_method="Other",grpc_service="s.S",grpc_type="bidi_stream"} 3
grpc_client_started_total{grpc_method="Up",grpc_service="s.S",grpc_type="client_stream"} 1
`
