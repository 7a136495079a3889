package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/agentk/agentk/api/engine"
)

// Results of synchronisations.
const (
	resultSucceeded = "succeeded"
	resultFailed    = "failed"
	resultCanceled  = "canceled"
	resultUnchanged = "unchanged"
)

// metrics are those of all workers together: names of projects are no labels.
type metrics struct {
	duration  prometheus.Histogram
	objects   *prometheus.GaugeVec
	syncs     *prometheus.CounterVec
	resident  prometheus.Gauge
	cpu       prometheus.Gauge
	processes prometheus.Gauge
	starts    prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "agentk_sync_duration_seconds", Help: "How long passes of GitOps that changed something, or failed, took",
			Buckets: []float64{0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600},
		}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "agentk_sync_objects", Help: "Objects in the newest passes of GitOps, by what became of them",
		}, []string{"state"}),
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentk_syncs_total", Help: "Passes of GitOps by result: succeeded, failed, canceled, unchanged",
		}, []string{"result"}),
		resident: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_gitops_engine_resident_bytes", Help: "Memory of the GitOps engine; 0 while there is none",
		}),
		cpu: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_gitops_engine_cpu_seconds", Help: "CPU time of the GitOps engine since it was started",
		}),
		processes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentk_gitops_engine_goroutines", Help: "Goroutines of the GitOps engine",
		}),
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "agentk_gitops_engine_starts_total", Help: "How often the GitOps engine was started",
		}),
	}
	for _, result := range []string{resultSucceeded, resultFailed, resultCanceled, resultUnchanged} {
		m.syncs.WithLabelValues(result)
	}
	for _, c := range []prometheus.Collector{m.duration, m.objects, m.syncs, m.resident, m.cpu, m.processes, m.starts} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) engine(e *engine.Metrics) {
	m.resident.Set(float64(e.GetResidentBytes()))
	m.cpu.Set(e.GetCpuSeconds())
	m.processes.Set(float64(e.GetGoroutines()))
}

func (m *metrics) engineGone() { m.engine(nil) }

// setObjects adds up the newest passes of all workers.
func (m *metrics) setObjects(all map[string]*engine.Finished) {
	var applied, pruned, unchanged, skipped, failed int32
	for _, f := range all {
		applied += f.GetApplied()
		pruned += f.GetPruned()
		unchanged += f.GetUnchanged()
		skipped += f.GetSkipped()
		failed += f.GetFailed()
	}
	for state, n := range map[string]int32{
		"applied": applied, "pruned": pruned, "unchanged": unchanged, "skipped": skipped, "failed": failed,
	} {
		m.objects.WithLabelValues(state).Set(float64(n))
	}
}
