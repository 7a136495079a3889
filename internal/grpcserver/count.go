package grpcserver

import (
	"slices"

	"google.golang.org/grpc"
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
		counters := metrics.of(info.FullMethod, kindOf(info.IsClientStream, info.IsServerStream))
		counters.started.Inc()
		if !slices.Contains(bulk, info.FullMethod) {
			stream = &countedStream{stream, counters}
		}
		err := next(srv, stream, info, handler)
		metrics.end(counters, err)
		return err
	}
}

// countedStream counts the messages of a stream.
type countedStream struct {
	grpc.ServerStream
	counters *method
}

func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.counters.sent.Inc()
	}
	return err
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.counters.received.Inc()
	}
	return err
}
