package grpcserver

import (
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics_AreShared(t *testing.T) {
	registry := prometheus.NewRegistry()
	first, err := Metrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Metrics(registry)
	if err != nil || first != second {
		t.Errorf("the second server has metrics of its own, %v", err)
	}
	if own, err := Metrics(nil); err != nil || own == first {
		t.Errorf("without a registerer: %v", err)
	}
}

func TestMetrics_NameTaken(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "grpc_server_started_total", Help: "somebody else's"}))
	if _, err := Metrics(registry); err == nil {
		t.Error("no error")
	}
}

func TestShare(t *testing.T) {
	for _, tc := range []struct {
		age  time.Duration
		part float64
		want time.Duration
	}{{0, ageShare, math.MaxInt64}, {-1, ageShare, math.MaxInt64}, {1, ageShare, 1}, {2 * time.Hour, ageShare, 24 * time.Minute}, {2 * time.Hour, graceShare, 78 * time.Minute}} {
		if got := share(tc.age, tc.part); got != tc.want {
			t.Errorf("%v of %v = %v, want %v", tc.part, tc.age, got, tc.want)
		}
	}
}
