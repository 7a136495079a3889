// Package rpcmetrics counts gRPC calls and their messages under the names that everybody's dashboards know, for both ends of a call. The
// counters of a method are found once per call and not once per message.
package rpcmetrics

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Counters are those of one end, by method. They are a prometheus.Collector.
type Counters struct {
	started, handled, received, sent *prometheus.CounterVec
	methods                          sync.Map // full method name to *Method
}

// Method is the counters of one method. Received and Sent count messages.
type Method struct {
	Started, Received, Sent prometheus.Counter

	handled *prometheus.CounterVec // without the code
	ok      prometheus.Counter
}

// Server returns new counters of calls that are served.
func Server() *Counters { return newCounters("server", "on the server") }

// Client returns new counters of calls that are made.
func Client() *Counters { return newCounters("client", "by the client") }

func newCounters(end, where string) *Counters {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "grpc_" + end + "_" + name, Help: help},
			append([]string{"grpc_type", "grpc_service", "grpc_method"}, labels...))
	}
	return &Counters{
		started:  vec("started_total", "RPCs started "+where),
		handled:  vec("handled_total", "RPCs completed "+where+", whether or not they succeeded", "grpc_code"),
		received: vec("msg_received_total", "Messages received by the "+end),
		sent:     vec("msg_sent_total", "Messages sent by the "+end),
	}
}

// Describe implements prometheus.Collector.
func (c *Counters) Describe(ch chan<- *prometheus.Desc) {
	for _, vec := range []*prometheus.CounterVec{c.started, c.handled, c.received, c.sent} {
		vec.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *Counters) Collect(ch chan<- prometheus.Metric) {
	for _, vec := range []*prometheus.CounterVec{c.started, c.handled, c.received, c.sent} {
		vec.Collect(ch)
	}
}

// Of finds the counters of a method by its full name ("/service/method") and kind (see KindOf).
func (c *Counters) Of(fullMethod, kind string) *Method {
	if known, ok := c.methods.Load(fullMethod); ok {
		return known.(*Method)
	}
	service, name, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	handled := c.handled.MustCurryWith(prometheus.Labels{"grpc_type": kind, "grpc_service": service, "grpc_method": name})
	known, _ := c.methods.LoadOrStore(fullMethod, &Method{
		Started:  c.started.WithLabelValues(kind, service, name),
		Received: c.received.WithLabelValues(kind, service, name),
		Sent:     c.sent.WithLabelValues(kind, service, name),
		handled:  handled,
		ok:       handled.WithLabelValues(codes.OK.String()),
	})
	return known.(*Method)
}

// Handled is the counter of calls that ended with a code.
func (m *Method) Handled(code codes.Code) prometheus.Counter {
	return m.handled.WithLabelValues(code.String())
}

// End counts the end of a call; nil is OK.
func (m *Method) End(err error) {
	if err == nil {
		m.ok.Inc()
		return
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	m.Handled(s.Code()).Inc()
}

// KindOf is the kind of a method, as the label grpc_type names it.
func KindOf(clientStreams, serverStreams bool) string {
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
