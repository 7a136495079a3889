package gitlab

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

const limiterName = "gitlab_client"

var errLimited = errors.New("too many requests to GitLab at once, and no time left to wait")

// limiter makes requests wait for their turn.
type limiter struct {
	bucket  *rate.Limiter
	blocked *prometheus.HistogramVec
}

// newLimiter registers metrics that other limiters of kas share, told apart by limiter_name; so their Help must be the same in all.
func newLimiter(l RateLimit, reg prometheus.Registerer) (*limiter, error) {
	blocked, err := registered(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "limiter_block_duration_milliseconds",
		Help:    "Time that calls waited for their turn, by limiter and whether they got it",
		Buckets: []float64{1, 4, 16, 64, 256, 1024, 4096, 16384},
	}, []string{"limiter_name", "allowed"}))
	if err != nil {
		return nil, err
	}
	limit, err := registered(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "limiter_limit",
		Help: "How much a limiter lets through, by limiter and unit",
	}, []string{"limiter_name", "unit"}))
	if err != nil {
		return nil, err
	}
	limit.WithLabelValues(limiterName, "{refill/s}").Set(l.PerSecond)
	return &limiter{bucket: rate.NewLimiter(rate.Limit(l.PerSecond), l.Burst), blocked: blocked}, nil
}

// wait returns errLimited when the turn would come after the end of ctx.
func (l *limiter) wait(ctx context.Context) error {
	start := time.Now()
	err := l.bucket.Wait(ctx)
	waited := float64(time.Since(start)) / float64(time.Millisecond)
	l.blocked.WithLabelValues(limiterName, strconv.FormatBool(err == nil)).Observe(waited)
	if err != nil {
		return errLimited
	}
	return nil
}
