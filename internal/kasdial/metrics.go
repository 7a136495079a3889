package kasdial

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/internal/rpcmetrics"
)

// bulk is the method that carries the frames of proxied requests. Of it only streams are counted, by how they end: its messages are many,
// and the requests in them are counted elsewhere.
const bulk = reversetunnel.ReverseTunnel_Connect_FullMethodName

// clientMetrics counts RPCs and their messages.
type clientMetrics struct{ *rpcmetrics.Counters }

func newClientMetrics() *clientMetrics { return &clientMetrics{rpcmetrics.Client()} }

// countUnary counts unary RPCs.
func (m *clientMetrics) countUnary(ctx context.Context, fullMethod string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	counters := m.Of(fullMethod, rpcmetrics.KindOf(false, false))
	counters.Started.Inc()
	counters.Sent.Inc()
	err := invoke(ctx, fullMethod, req, reply, cc, opts...)
	if err == nil {
		counters.Received.Inc()
	}
	counters.End(err)
	return err
}

// countStream counts streams and, unless they are bulk, their messages. A stream that is given up before its end was received counts as
// started only.
func (m *clientMetrics) countStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, fullMethod string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	counters := m.Of(fullMethod, rpcmetrics.KindOf(desc.ClientStreams, desc.ServerStreams))
	counters.Started.Inc()
	stream, err := open(ctx, desc, cc, fullMethod, opts...)
	if err != nil {
		counters.End(err)
		return nil, err
	}
	ending := endingStream{ClientStream: stream, counters: counters, single: !desc.ServerStreams}
	if fullMethod == bulk {
		return &ending, nil
	}
	return &countedStream{ending}, nil
}

// endingStream counts how a stream ends.
type endingStream struct {
	grpc.ClientStream
	counters *rpcmetrics.Method
	// single: there is one answer, which is the end.
	single bool
}

func (s *endingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil && !s.single {
		return nil
	}
	if errors.Is(err, io.EOF) {
		s.counters.End(nil)
	} else {
		s.counters.End(err)
	}
	return err
}

// countedStream counts the messages of a stream, too.
type countedStream struct{ endingStream }

func (s *countedStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == nil {
		s.counters.Sent.Inc()
	}
	return err
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.endingStream.RecvMsg(m)
	if err == nil {
		s.counters.Received.Inc()
	}
	return err
}
