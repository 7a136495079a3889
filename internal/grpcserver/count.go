package grpcserver

import (
	"slices"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"google.golang.org/grpc"
)

// CountStreams counts streams and their messages. Of the methods named bulk ("/service/method") only streams are counted, by how they
// end: they carry the frames of proxied requests, of which each would cost two look-ups of a counter, and which the proxy counts itself.
func CountStreams(metrics *grpcprom.ServerMetrics, bulk ...string) grpc.StreamServerInterceptor {
	count := metrics.StreamServerInterceptor()
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !slices.Contains(bulk, info.FullMethod) {
			return count(srv, stream, info, handler)
		}
		return count(srv, stream, info, func(srv any, _ grpc.ServerStream) error { return handler(srv, stream) })
	}
}
