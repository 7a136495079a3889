package grpcserver

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
)

// fakeStream is a stream whose messages go nowhere.
type fakeStream struct{ grpc.ServerStream }

func (fakeStream) Context() context.Context { return context.Background() }
func (fakeStream) SendMsg(any) error        { return nil }
func (fakeStream) RecvMsg(any) error        { return nil }

func TestCountStreams(t *testing.T) {
	const bulk, other = "/s.S/Bulk", "/s.S/Other"
	registry := prometheus.NewRegistry()
	metrics, err := Metrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	count := CountStreams(metrics, bulk)
	for _, method := range []string{bulk, other} {
		err := count(nil, fakeStream{}, &grpc.StreamServerInfo{FullMethod: method, IsClientStream: true, IsServerStream: true},
			func(_ any, s grpc.ServerStream) error {
				if err := s.SendMsg(nil); err != nil {
					return err
				}
				return s.RecvMsg(nil)
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	// One series for each method that is counted.
	for name, want := range map[string]int{
		"grpc_server_started_total": 2, "grpc_server_handled_total": 2, "grpc_server_msg_sent_total": 1, "grpc_server_msg_received_total": 1,
	} {
		if got, err := testutil.GatherAndCount(registry, name); got != want || err != nil {
			t.Errorf("%s has %d series, want %d, %v", name, got, want, err)
		}
	}
}
