package k8sproxy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// maxLogged bounds a path or an error in a log line, in bytes.
const maxLogged = 1024

// metrics of the proxy. The labels hold nothing that a user chooses.
type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	bytes    *prometheus.CounterVec
	// sent and received are of bytes.
	sent, received prometheus.Counter
	upgrades       prometheus.Gauge
	panics         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_proxy_requests_total",
			Help: "Requests of Kubernetes clients by kind of credential and HTTP code (499: the client left before its answer)",
		}, []string{"access", "code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kas_proxy_request_duration_seconds",
			Help:    "Duration of requests of Kubernetes clients, watches and upgraded connections included",
			Buckets: []float64{0.001, 0.004, 0.016, 0.064, 0.256, 1, 4, 16, 64, 256, 1024, 4096},
		}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_proxy_bytes_total",
			Help: "Bytes of bodies and upgraded connections by direction, as the client sees it",
		}, []string{"direction"}),
		upgrades: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_proxy_upgrades_active",
			Help: "Upgraded connections (exec, attach, port-forward) that are open",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kas_proxy_panics_total",
			Help: "Requests that failed by a mistake in kas",
		}),
	}
	m.sent, m.received = m.bytes.WithLabelValues("request"), m.bytes.WithLabelValues("response")
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.bytes, m.upgrades, m.panics} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the kubernetes proxy: %w", err)
		}
	}
	return m, nil
}

// observe writes the one log line of a request and counts it.
func (p *Proxy) observe(t *transaction, r *http.Request) {
	took := time.Since(t.started)
	code := t.code
	if code == 0 {
		code = statusClientGone
	}
	p.metrics.requests.WithLabelValues(string(t.credential.access), strconv.Itoa(code)).Inc()
	p.metrics.duration.Observe(took.Seconds())
	p.metrics.sent.Add(float64(t.sent))
	p.metrics.received.Add(float64(t.received))
	if r.Method == http.MethodOptions {
		return
	}
	if line := p.cfg.Log.Check(zap.InfoLevel, "Kubernetes API request"); line != nil {
		fields := p.fields.Get().(*[]zap.Field)
		*fields = t.appendFields((*fields)[:0], r, code, took)
		line.Write(*fields...)
		clear(*fields)
		p.fields.Put(fields)
	}
}

// maxFields is how many fields the log line of a request has.
const maxFields = 15

// appendFields appends what the log says of a request.
func (t *transaction) appendFields(fields []zap.Field, r *http.Request, code int, took time.Duration) []zap.Field {
	fields = append(fields,
		zap.String("access", string(t.credential.access)),
		zap.Int64("agent_id", t.credential.agentID),
		zap.String("verb", limited(r.Method)),
		zap.String("url_path", limited(t.path)),
		zap.Int("status_code", code),
		zap.Int64("request_bytes", t.sent),
		zap.Int64("response_bytes", t.received),
		zap.Float64("duration_in_ms", float64(took.Microseconds())/1000),
		traceID(t),
	)
	if t.grant.username != "" {
		fields = append(fields, zap.String("username", t.grant.username))
	}
	if t.grant.jobID != 0 {
		fields = append(fields, zap.Int64("ci_job_id", t.grant.jobID), zap.Int64("ci_project_id", t.grant.projectID))
	}
	if t.upgraded {
		fields = append(fields, zap.Bool("upgraded", true))
	}
	if t.err != "" {
		fields = append(fields, zap.String("hop", string(t.hop)), zap.String("error", limited(t.err)))
	}
	return fields
}

func traceID(t *transaction) zap.Field { return zap.String("trace_id", t.trace.id) }

func limited(s string) string {
	if len(s) > maxLogged {
		return strings.ToValidUTF8(s[:maxLogged], "") + "..."
	}
	return s
}
