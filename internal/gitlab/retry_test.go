package gitlab

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"gitlab.com/agentk/agentk/internal/fault"
)

func count(t *testing.T, c *Client, endpoint, code string) float64 {
	t.Helper()
	return testutil.ToFloat64(c.metrics.requests.WithLabelValues(endpoint, code))
}

func after(status int, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", value)
		w.WriteHeader(status)
	}
}

func TestRetry_Recovers(t *testing.T) {
	for _, status := range []int{429, 500, 502, 503, 504} {
		r := newRails(t, inTurn(bare(status), bare(status), bare(status), bare(status), ok(allowedJSON)))
		c := r.start()
		if _, err := c.AllowedAgents(within(t), jobToken); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if failed, good := count(t, c, endpointAllowedAgents, strconv.Itoa(status)), count(t, c, endpointAllowedAgents, "200"); failed != 4 || good != 1 {
			t.Errorf("%d: counted %v and %v", status, failed, good)
		}
	}
}

func TestRetry_Pauses(t *testing.T) {
	r := newRails(t, inTurn(bare(500), bare(500), ok(allowedJSON)))
	c := r.start()
	c.retries.Initial = firstRetry
	start := time.Now()
	if _, err := c.AllowedAgents(within(t), jobToken); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("100 ms and 200 ms took %v", took)
	}
}

func TestRetryAfter_IsHonoured(t *testing.T) {
	date := func(w http.ResponseWriter, req *http.Request) {
		after(429, time.Now().Add(2*time.Second).UTC().Format(http.TimeFormat))(w, req)
	}
	for name, answer := range map[string]http.HandlerFunc{"seconds": after(429, "1"), "date": date} {
		t.Run(name, func(t *testing.T) {
			r := newRails(t, inTurn(answer, ok(allowedJSON)))
			start := time.Now()
			if _, err := r.start().AllowedAgents(within(t), jobToken); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < 500*time.Millisecond {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestRetryAfter_TooLong: waiting on would hold up the caller, asking earlier would be rude.
func TestRetryAfter_TooLong(t *testing.T) {
	for _, status := range []int{429, 503} {
		r := newRails(t, after(status, "3600"))
		_, err := r.start().AllowedAgents(within(t), jobToken)
		if fault.KindOf(err) != fault.Unavailable || len(r.requests()) != 1 {
			t.Errorf("%d requests, %v", len(r.requests()), err)
		}
	}
}

// TestRetryAfter_AgentsCallers: who asks on behalf of an agent is not repeated, but learns when to ask again.
func TestRetryAfter_AgentsCallers(t *testing.T) {
	r := newRails(t, after(429, "120"))
	_, err := r.start().AgentByToken(within(t), agentToken)
	if fault.KindOf(err) != fault.Unavailable || fault.RetryAfterOf(err) != 2*time.Minute || len(r.requests()) != 1 {
		t.Errorf("%d requests, %v, again after %v", len(r.requests()), err, fault.RetryAfterOf(err))
	}
}

func TestRetryAfter_IgnoredElsewhere(t *testing.T) {
	for _, answer := range []http.HandlerFunc{after(500, "3600"), after(429, "soon"), after(503, "-5"), after(429, "99999999999999999999")} {
		r := newRails(t, answer)
		if _, err := r.start().AllowedAgents(within(t), jobToken); err == nil || len(r.requests()) != 1+maxRetries {
			t.Errorf("%d requests, %v", len(r.requests()), err)
		}
	}
}

// TestRetry_NoTimeLeft: an answer now is better than a deadline later.
func TestRetry_NoTimeLeft(t *testing.T) {
	r := newRails(t, after(503, "20"))
	c := r.start()
	ctx, cancel := context.WithTimeout(t.Context(), 19*time.Second)
	defer cancel()
	_, err := c.AllowedAgents(ctx, jobToken)
	if fault.KindOf(err) != fault.Unavailable || ctx.Err() != nil || len(r.requests()) != 1 {
		t.Errorf("%d requests, %v", len(r.requests()), err)
	}
}

func TestRateLimit_Waits(t *testing.T) {
	r := newRails(t, ok(allowedJSON))
	c := r.start(func(cfg *Config) { cfg.RateLimit = RateLimit{PerSecond: 20, Burst: 1} })
	start := time.Now()
	for range 5 {
		if _, err := c.AllowedAgents(within(t), jobToken); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("5 requests at 20/s took %v", took)
	}
}

func TestRateLimit_NoTimeLeft(t *testing.T) {
	r := newRails(t, ok(allowedJSON))
	reg := prometheus.NewPedanticRegistry()
	c := r.start(func(cfg *Config) { cfg.RateLimit, cfg.Registerer = RateLimit{PerSecond: 0.001, Burst: 1}, reg })
	if _, err := c.AllowedAgents(within(t), jobToken); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, e := range endpoints() {
		if _, err := e.call(within(t), c); fault.KindOf(err) != fault.Unavailable || fault.HopOf(err) != fault.Kas {
			t.Errorf("%s: %v", e.name, err)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if n := len(r.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	for name, want := range map[string]int{
		"limiter_limit": 1, "limiter_block_duration_milliseconds": 2, "kas_gitlab_requests_total": 1, "kas_gitlab_request_duration_seconds": 1,
	} {
		if got, err := testutil.GatherAndCount(reg, name); err != nil || got != want {
			t.Errorf("%s: %d series, %v", name, got, err)
		}
	}
	if problems, err := testutil.GatherAndLint(reg, "kas_gitlab_requests_total", "kas_gitlab_request_duration_seconds"); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestMetrics_Shared: another limiter of the same kas may have registered the metrics already.
func TestMetrics_Shared(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	for range 2 {
		if _, err := newLimiter(RateLimit{PerSecond: 1, Burst: 1}, reg); err != nil {
			t.Fatal(err)
		}
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "limiter_limit", Help: "something else"}))
	if _, err := newLimiter(RateLimit{PerSecond: 1, Burst: 1}, other); err == nil {
		t.Error("another metric of that name is no error")
	}
}
