package grpcserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"gitlab.com/agentk/agentk/internal/rpcmetrics"
)

// ServerMetrics counts RPCs and their messages. The frames on the stack of a stream that waits are small.
type ServerMetrics struct{ *rpcmetrics.Counters }

// Metrics are the metrics of all gRPC servers of the process, whose labels tell the services apart: the first call registers them,
// later ones return the same. With a nil registerer they are nobody else's.
func Metrics(registerer prometheus.Registerer) (*ServerMetrics, error) {
	metrics := &ServerMetrics{rpcmetrics.Server()}
	if registerer == nil {
		return metrics, nil
	}
	err := registerer.Register(metrics)
	var known prometheus.AlreadyRegisteredError
	if errors.As(err, &known) {
		if shared, ok := known.ExistingCollector.(*ServerMetrics); ok {
			return shared, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("register metrics of gRPC: %w", err)
	}
	return metrics, nil
}

// InitializeMetrics makes the series of all methods of a server, so that they begin at zero.
func (m *ServerMetrics) InitializeMetrics(server *grpc.Server) {
	for service, info := range server.GetServiceInfo() {
		for _, each := range info.Methods {
			counters := m.Of("/"+service+"/"+each.Name, rpcmetrics.KindOf(each.IsClientStream, each.IsServerStream))
			for code := codes.OK; code <= codes.Unauthenticated; code++ {
				counters.Handled(code)
			}
		}
	}
}

// UnaryServerInterceptor counts unary RPCs.
func (m *ServerMetrics) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		counters := m.Of(info.FullMethod, rpcmetrics.KindOf(false, false))
		counters.Started.Inc()
		counters.Received.Inc()
		resp, err := handler(ctx, req)
		if err == nil {
			counters.Sent.Inc()
		}
		counters.End(err)
		return resp, err
	}
}

// StreamServerInterceptor counts streams and their messages.
func (m *ServerMetrics) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return CountStreams(m)
}
