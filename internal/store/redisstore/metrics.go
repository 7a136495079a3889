package redisstore

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of calls.
const (
	resultOK = "ok"
	// resultRefused means that Redis answered with an error.
	resultRefused = "refused"
	// resultUnreachable means that there was no answer, or one that says to come later (LOADING).
	resultUnreachable = "unreachable"
	// resultSkipped means that Redis was not asked, because it is known to be unreachable.
	resultSkipped = "skipped"
	// resultCanceled means that the caller did not want the answer any more.
	resultCanceled = "canceled"
)

type metrics struct {
	calls      *prometheus.HistogramVec
	up         prometheus.Gauge
	writable   prometheus.Gauge
	subscribed prometheus.Gauge
	lost       prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kas_redis_call_duration_seconds",
			Help:    "Time that calls to Redis took, by operation and result",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"operation", "result"}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_redis_up", Help: "1 while Redis answers",
		}),
		writable: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_redis_writable", Help: "1 while Redis accepts what kas writes",
		}),
		subscribed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kas_redis_subscribed", Help: "1 while this kas hears what other replicas publish",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kas_redis_events_dropped_total", Help: "Push events that a slow subscriber inside kas lost",
		}),
	}
	if r != nil {
		r.MustRegister(m.calls, m.up, m.writable, m.subscribed, m.lost)
	}
	return m
}

func (m *metrics) observe(operation, result string, start time.Time) {
	m.calls.WithLabelValues(operation, result).Observe(time.Since(start).Seconds())
}
