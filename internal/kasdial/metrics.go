package kasdial

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/reversetunnel"
)

// bulk is the method that carries the frames of proxied requests. Of it only streams are counted, by how they end: its messages are many,
// and the requests in them are counted elsewhere.
const bulk = reversetunnel.ReverseTunnel_Connect_FullMethodName

// clientMetrics counts RPCs and their messages under the names that everybody's dashboards know. Counters are found once per RPC and not
// once per message.
type clientMetrics struct {
	started, handled, received, sent *prometheus.CounterVec
	methods                          sync.Map // full method name to *method
}

// method is the counters of one method.
type method struct {
	kind, service, name     string
	started, received, sent prometheus.Counter
	handledOK               prometheus.Counter
}

func newClientMetrics() *clientMetrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"grpc_type", "grpc_service", "grpc_method"}, labels...))
	}
	return &clientMetrics{
		started:  vec("grpc_client_started_total", "RPCs started by the client"),
		handled:  vec("grpc_client_handled_total", "RPCs completed by the client, whether or not they succeeded", "grpc_code"),
		received: vec("grpc_client_msg_received_total", "Messages received by the client"),
		sent:     vec("grpc_client_msg_sent_total", "Messages sent by the client"),
	}
}

func (m *clientMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.started, m.handled, m.received, m.sent}
}

// countUnary counts unary RPCs.
func (m *clientMetrics) countUnary(ctx context.Context, fullMethod string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	counters := m.of(fullMethod, "unary")
	counters.started.Inc()
	counters.sent.Inc()
	err := invoke(ctx, fullMethod, req, reply, cc, opts...)
	if err == nil {
		counters.received.Inc()
	}
	m.end(counters, err)
	return err
}

// countStream counts streams and, unless they are bulk, their messages. A stream that is given up before its end was received counts as
// started only.
func (m *clientMetrics) countStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, fullMethod string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	counters := m.of(fullMethod, kindOf(desc))
	counters.started.Inc()
	stream, err := open(ctx, desc, cc, fullMethod, opts...)
	if err != nil {
		m.end(counters, err)
		return nil, err
	}
	ending := endingStream{ClientStream: stream, metrics: m, counters: counters, single: !desc.ServerStreams}
	if fullMethod == bulk {
		return &ending, nil
	}
	return &countedStream{ending}, nil
}

// endingStream counts how a stream ends.
type endingStream struct {
	grpc.ClientStream
	metrics  *clientMetrics
	counters *method
	// single: there is one answer, which is the end.
	single bool
}

func (s *endingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil && !s.single {
		return nil
	}
	if errors.Is(err, io.EOF) {
		s.metrics.end(s.counters, nil)
	} else {
		s.metrics.end(s.counters, err)
	}
	return err
}

// countedStream counts the messages of a stream, too.
type countedStream struct{ endingStream }

func (s *countedStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == nil {
		s.counters.sent.Inc()
	}
	return err
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.endingStream.RecvMsg(m)
	if err == nil {
		s.counters.received.Inc()
	}
	return err
}

// of finds the counters of a method.
func (m *clientMetrics) of(fullMethod, kind string) *method {
	if known, ok := m.methods.Load(fullMethod); ok {
		return known.(*method)
	}
	service, name, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	known, _ := m.methods.LoadOrStore(fullMethod, &method{
		kind: kind, service: service, name: name,
		started:   m.started.WithLabelValues(kind, service, name),
		received:  m.received.WithLabelValues(kind, service, name),
		sent:      m.sent.WithLabelValues(kind, service, name),
		handledOK: m.handled.WithLabelValues(kind, service, name, codes.OK.String()),
	})
	return known.(*method)
}

// end counts the end of an RPC.
func (m *clientMetrics) end(counters *method, err error) {
	if err == nil {
		counters.handledOK.Inc()
		return
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	m.handled.WithLabelValues(counters.kind, counters.service, counters.name, s.Code().String()).Inc()
}

func kindOf(desc *grpc.StreamDesc) string {
	switch {
	case desc.ClientStreams && desc.ServerStreams:
		return "bidi_stream"
	case desc.ClientStreams:
		return "client_stream"
	}
	return "server_stream"
}
