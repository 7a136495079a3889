package grpcserver

import (
	"slices"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/internal/rpcmetrics"
)

// CountStreams counts streams and their messages. Of the methods named bulk ("/service/method") only streams are counted, by how they
// end: they carry the frames of proxied requests, which the proxy counts itself.
func CountStreams(metrics *ServerMetrics, bulk ...string) grpc.StreamServerInterceptor {
	return CountStreamsOf(metrics, handle, bulk...)
}

func handle(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, stream)
}

// CountStreamsOf is CountStreams around another interceptor. The library's own chain of the two would take 200 bytes more of the stack of
// every stream that waits, and with them the next size of a stack.
func CountStreamsOf(metrics *ServerMetrics, next grpc.StreamServerInterceptor, bulk ...string) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		counters := metrics.Of(info.FullMethod, rpcmetrics.KindOf(info.IsClientStream, info.IsServerStream))
		counters.Started.Inc()
		if !slices.Contains(bulk, info.FullMethod) {
			stream = &countedStream{stream, counters}
		}
		err := next(srv, stream, info, handler)
		counters.End(err)
		return err
	}
}

// countedStream counts the messages of a stream.
type countedStream struct {
	grpc.ServerStream
	counters *rpcmetrics.Method
}

func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.counters.Sent.Inc()
	}
	return err
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.counters.Received.Inc()
	}
	return err
}
