package gitlab

import (
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label endpoint.
const (
	endpointAgentInfo     = "agent_info"
	endpointProjectInfo   = "project_info"
	endpointProjectAccess = "verify_project_access"
	endpointConfiguration = "agent_configuration"
	endpointUser          = "authorize_proxy_user"
	endpointUsage         = "usage_metrics"
	endpointEvents        = "agent_events"
	endpointModules       = "modules"
	endpointAllowedAgents = "allowed_agents"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	requests, err := registered(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kas_gitlab_requests_total",
		Help: "Requests to GitLab, repeated ones included, by endpoint and HTTP status; error: there was no answer",
	}, []string{"endpoint", "code"}))
	if err != nil {
		return nil, err
	}
	duration, err := registered(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "kas_gitlab_request_duration_seconds",
		Help:    "Time from sending a request to GitLab until the header of the answer",
		Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 10),
	}, []string{"endpoint"}))
	if err != nil {
		return nil, err
	}
	return &metrics{requests: requests, duration: duration}, nil
}

// observe counts one request; status 0 is no answer.
func (m *metrics) observe(endpoint string, status int, took time.Duration) {
	code := "error"
	if status != 0 {
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(endpoint, code).Inc()
	m.duration.WithLabelValues(endpoint).Observe(took.Seconds())
}

// registered registers a collector, or finds the one that has its place already. Without a registerer nothing is shown.
func registered[T prometheus.Collector](reg prometheus.Registerer, collector T) (T, error) {
	if reg == nil {
		return collector, nil
	}
	err := reg.Register(collector)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if same, ok := there.ExistingCollector.(T); ok {
			return same, nil
		}
	}
	return collector, err
}
