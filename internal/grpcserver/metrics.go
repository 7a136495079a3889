package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ServerMetrics counts RPCs and their messages under the names that everybody's dashboards know. Counters are found once per RPC and not
// once per message, and the frames on the stack of a stream that waits are small.
type ServerMetrics struct {
	started, handled, received, sent *prometheus.CounterVec
	methods                          sync.Map // full method name to *method
}

// method is the counters of one method.
type method struct {
	kind, service, name     string
	started, received, sent prometheus.Counter
}

// Metrics are the metrics of all gRPC servers of the process, whose labels tell the services apart: the first call registers them,
// later ones return the same. With a nil registerer they are nobody else's.
func Metrics(registerer prometheus.Registerer) (*ServerMetrics, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"grpc_type", "grpc_service", "grpc_method"}, labels...))
	}
	metrics := &ServerMetrics{
		started:  vec("grpc_server_started_total", "RPCs started on the server"),
		handled:  vec("grpc_server_handled_total", "RPCs completed on the server, whether or not they succeeded", "grpc_code"),
		received: vec("grpc_server_msg_received_total", "Messages received by the server"),
		sent:     vec("grpc_server_msg_sent_total", "Messages sent by the server"),
	}
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

// Describe implements prometheus.Collector.
func (m *ServerMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, vec := range []*prometheus.CounterVec{m.started, m.handled, m.received, m.sent} {
		vec.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *ServerMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, vec := range []*prometheus.CounterVec{m.started, m.handled, m.received, m.sent} {
		vec.Collect(ch)
	}
}

// InitializeMetrics makes the series of all methods of a server, so that they begin at zero.
func (m *ServerMetrics) InitializeMetrics(server *grpc.Server) {
	for service, info := range server.GetServiceInfo() {
		for _, each := range info.Methods {
			counters := m.of("/"+service+"/"+each.Name, kindOf(each.IsClientStream, each.IsServerStream))
			for code := codes.OK; code <= codes.Unauthenticated; code++ {
				m.handledAs(counters, code)
			}
		}
	}
}

// UnaryServerInterceptor counts unary RPCs.
func (m *ServerMetrics) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		counters := m.of(info.FullMethod, "unary")
		counters.started.Inc()
		counters.received.Inc()
		resp, err := handler(ctx, req)
		if err == nil {
			counters.sent.Inc()
		}
		m.end(counters, err)
		return resp, err
	}
}

// StreamServerInterceptor counts streams and their messages.
func (m *ServerMetrics) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return CountStreams(m)
}

// of finds the counters of a method.
func (m *ServerMetrics) of(fullMethod, kind string) *method {
	if known, ok := m.methods.Load(fullMethod); ok {
		return known.(*method)
	}
	service, name, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	known, _ := m.methods.LoadOrStore(fullMethod, &method{
		kind: kind, service: service, name: name,
		started:  m.started.WithLabelValues(kind, service, name),
		received: m.received.WithLabelValues(kind, service, name),
		sent:     m.sent.WithLabelValues(kind, service, name),
	})
	return known.(*method)
}

// end counts the end of an RPC.
func (m *ServerMetrics) end(counters *method, err error) {
	s, _ := status.FromError(err)
	if err != nil && s.Code() == codes.Unknown {
		s = status.FromContextError(err)
	}
	m.handledAs(counters, s.Code()).Inc()
}

func (m *ServerMetrics) handledAs(counters *method, code codes.Code) prometheus.Counter {
	return m.handled.WithLabelValues(counters.kind, counters.service, counters.name, code.String())
}

func kindOf(clientStreams, serverStreams bool) string {
	switch {
	case clientStreams && serverStreams:
		return "bidi_stream"
	case clientStreams:
		return "client_stream"
	case serverStreams:
		return "server_stream"
	}
	return "unary"
}
